"""The headline of a run: the last epoch on the test set or, with a hold-out, the best one."""

import logging
import math
from collections.abc import Callable

from utils.errors import UserError
from utils.metrics import Measurement, Row
from utils.training.checkpoint import (
    Checkpoint,
    changed_splits,
    load_best,
    load_checkpoint,
    load_model_state,
    save_checkpoint,
)
from utils.training.layout import shown
from utils.training.run import Run

log = logging.getLogger("dgcmm")


def finish(
    run: Run,
    measure: Callable[[str], Measurement | None],
    last: Measurement | None,
    examine: Callable[[], Checkpoint] | None = None,
) -> Row:
    """Measure and write the headline, once; the last save of a run.

    Args:
        run: with all its epochs.
        measure: measures the model as it is on a split; gives None in all processes but the main one.
        last: the last epoch's measurement on `run.split`, if it was made in this process.
        examine: gives what else a checkpoint says of the model as it is; called for the last epoch, and for the best.
            None: nothing.

    Returns:
        The final JSON object in the main process, an empty one in the others.
    """
    if not run.world.broadcast(bool(run.history)):
        raise UserError("no epoch has been trained: give more --epochs")
    if run.world.broadcast(bool(run.history) and run.history[-1]["split"] is None):
        last = measure(run.split)  # it was not to be the last epoch when it ended
        run.add_measurement(last)
    if examine:
        run.about |= examine()
    epoch = run.epoch
    if run.split == "val":
        epoch, last = _measure_best(run, measure, examine)
    elif not run.world.broadcast(last is not None):
        last = measure("test")
    result: Row = {}
    if last is not None:
        run.folder.require_lock()
        rows = list(run.history)
        if run.split == "val":
            rows.append(dict.fromkeys(rows[-1]) | {"epoch": epoch, "split": "test", **last.numbers})
            log.info("best epoch %d | test: %s", epoch, shown(last.numbers))
            use = ", which --resume=auto of a re-training takes" if run.kind == "train" else ""
            log.info("that is %s; %s is the last epoch%s", run.folder.best, run.folder.checkpoint.name, use)
        run.folder.write_measurement(last, epoch)
        result = {"epoch": epoch, "split": "test", **last.numbers}
        result["time"] = math.fsum(row["time"] for row in run.history)
        run.folder.write_rows("metrics.csv", rows)
    run.save(result)
    if last is not None and run.split == "val":
        run.show(epoch, rows[-1])
    return result


def _measure_best(
    run: Run, measure: Callable[[str], Measurement | None], examine: Callable[[], Checkpoint] | None
) -> tuple[int, Measurement | None]:
    """Measure the best epoch on the test set: (epoch, measurement); the model is as before."""
    last = {name: value.clone() for name, value in run.model.state_dict().items()}
    best = run.world.on_main(lambda: _load_best(run))
    load_model_state(run.model, best, str(run.folder.best))
    try:
        entries = examine() if examine else {}
        if run.world.is_main and entries:
            save_checkpoint(run.folder.best, load_checkpoint(run.folder.best) | entries)
        return best["epoch"], measure("test")
    finally:
        run.model.load_state_dict(last)


def _load_best(run: Run) -> Checkpoint:
    """Load the best epoch's checkpoint.

    It may be newer than the run's checkpoint: after a crash between writing the two, the repeated epochs can score
    lower, if another number of processes repeats them. Then it still counts.
    """
    if run.best is None:
        raise UserError("no epoch has been measured on the held-out images yet: give more --epochs")
    best = load_best(run.folder.best)
    other_data = changed_splits(best["data_sha256"], run.about["data_sha256"])
    if other_data or best["best"]["acsa"] < run.best["acsa"]:
        raise UserError(
            f"{run.folder.best} holds epoch {best['epoch']}, the best one was {run.best['epoch']}: it belongs to "
            "another run; put the right one back"
        )
    run.best = best["best"]
    return {"epoch": best["epoch"], "state_dict": best["state_dict"]}
