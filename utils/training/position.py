"""How far an epoch is, and what of that another number of processes takes over."""

import logging
from dataclasses import dataclass

from utils.distributed.world import World
from utils.training.checkpoint import Checkpoint

log = logging.getLogger("dgcmm")


@dataclass
class Position:
    """How far an epoch is: what resuming within it needs besides weights and optimizer.

    Attributes:
        step: steps done.
        seen: samples that this process has trained on.
        totals: sums over them of the loss and of each of its terms; float64, as plain numbers. Before the first step
            one 0, whatever their number.
    """

    step: int = 0
    seen: int = 0
    totals: tuple[float, ...] = (0.0,)


def own_position(checkpoint: Checkpoint, world: World) -> Position:
    """Return this process's part of a checkpoint's running epoch; other numbers of processes share it differently."""
    seen, totals = zip(*checkpoint["sums"], strict=True)
    if len(seen) == world.size:
        return Position(checkpoint["step"], seen[world.rank], tuple(totals[world.rank]))
    log.warning(
        "%d process(es) continue what %d began: batch norm sees other parts of each batch, so the numbers will "
        "differ from those of a run that was not interrupted; with %d they do not",
        world.size,
        len(seen),
        len(seen),
    )
    sums = tuple(map(sum, zip(*totals, strict=True)))
    whole = (sum(seen), sums) if world.is_main else (0, (0.0,) * len(sums))
    return Position(checkpoint["step"], *whole)
