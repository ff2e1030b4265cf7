"""What the processes of tests do that train nothing: importing this is fast, as it brings no script."""

import time
from pathlib import Path


def failing(world, how):
    """Rank 1 ends in some way, while rank 0 waits for it."""
    if world.rank == 1 and how == "raise":
        raise ZeroDivisionError("a fault of rank 1")
    world.gather(world.rank)


def preparing(world, folder):
    """The first process prepares; a collective, which has a time limit, would fail here."""

    def prepare():
        time.sleep(0.2)
        Path(folder, f"prepared by {world.rank}").touch()

    gather, world.gather = world.gather, None
    control, world.control = world.control, None
    try:
        world.on_each_node(prepare)
    finally:
        world.gather, world.control = gather, control
    assert Path(folder, "prepared by 0").exists()
    Path(folder, f"seen by {world.rank}").touch()
