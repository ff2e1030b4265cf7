"""What lies in a run folder, by name; nothing here imports torch."""

import codecs
import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError

SUFFIXES = ("", "_eval", "_aug", "_aug_ftl")  # of the scripts' files
LAST, BEST = "checkpoint.pth", "model_best.pth"  # of a training: its last epoch, and with a hold-out its best one
NAMES = (
    *("args.json", "health.json", "log.txt", "metrics.csv", "metrics_per_class.csv", "predictions.csv", "subset.txt"),
    "pictures.npz",
)
SHOWN = ("acc", "acsa", "f_ma", "g_ma", "many", "median", "low")  # columns of metrics.csv that tables and lines have
PREDICTIONS = ("id", "target", "prediction")  # the first columns of a run's predictions.csv
RUN_HEADER = f"{','.join(PREDICTIONS)},".encode()  # with which it begins
# of a trained run, by scripts/baselines.py; by scripts/robustness.py, which measures its re-trainings too
BASELINES, BASELINES_BY_CLASS = "metrics_baselines.csv", "metrics_per_class_baselines.csv"
ROBUSTNESS, GENERATIVE_HALF = "metrics_robustness.csv", "generative_half.json"
MEASURED = (
    *("args_baselines.json", BASELINES, BASELINES_BY_CLASS),
    *("args_robustness.json", ROBUSTNESS, GENERATIVE_HALF),
)
PROJECTED, PROJECTOR = "00000", "projector_config.pbtxt"  # TensorBoard's folder of codes, and the file that names it
PICTURES = "figures"  # the folder of all scripts' figures
FOLDERS = (PICTURES, *(suffix.strip("_") for suffix in SUFFIXES if suffix))  # that one, and TensorBoard's of a script
RESULTS = {"": "trained", "_aug_ftl": "Case 1", "_aug": "Case 2", "_eval": "evaluated"}  # what a script has made
RETRAININGS = ("_aug_ftl", "_aug")
# in the order in which TensorBoard shows them
FIGURES = ("learning_curves", "recall", "confusion", "reliability", "codes", "reconstructions", "samples")


def shown(row: Mapping[str, Any]) -> str:
    """Write the headline metrics of a measurement in a line."""
    return ", ".join(f"{name} {'-' if row[name] is None else format(row[name], '.4f')}" for name in SHOWN)


def with_suffix(name: str, suffix: str) -> str:
    """Put a script's suffix before the extension: metrics_aug.csv."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{suffix}{dot}{extension}"


def is_of_run(table: str | Path) -> bool:
    """Tell whether a file is the predictions.csv of a run; predict.py may have written one of this name."""
    with contextlib.suppress(OSError), open(table, "rb") as file:
        return file.readline().removeprefix(codecs.BOM_UTF8).startswith(RUN_HEADER)
    return False


def previous_of(checkpoint: Path) -> Path:
    """Name the checkpoint before the last."""
    return checkpoint.with_name(f"{checkpoint.stem}_prev.pth")


def codes_beside(checkpoint: Path) -> Path:
    """Name the file in which augment.py keeps the codes of a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.stem}_codes.pth")


CODES = tuple(codes_beside(path).name for path in (Path(LAST), previous_of(Path(LAST)), Path(BEST)))  # of a training
RUN_FILES = {
    *(*MEASURED, *CODES, BEST),
    *(with_suffix(name, suffix) for name in (*NAMES, LAST) for suffix in SUFFIXES),
    *(previous_of(Path(with_suffix(LAST, suffix))).name for suffix in SUFFIXES),
}


def start_times(content: Mapping[str, Any]) -> list[str]:
    """Tell when a script was started, and resumed, by its args.json: ISO 8601 in UTC, '' where it is silent."""
    return [str(start.get("started", "")) for start in (content, *content.get("resumed", ()))]


def epochs_of(rows: Iterable[Mapping[str, str]]) -> int:
    """Tell how many epochs the rows of a metrics.csv are of."""
    return max((int(row["epoch"]) for row in rows), default=0)


def went_on_since(made: Mapping[str, Any], starts: Iterable[str], epochs: int) -> bool:
    """Tell whether a training has gone on, or begun anew, since a script took its model.

    Args:
        made: the args.json of the script; those of older versions do not say which epoch the model was of.
        starts: when the training was started and resumed, '' where that is not known.
        epochs: that the training has done.
    """
    if "" < start_times(made)[0] < max(starts):
        return True
    taken = Path(str(made["arguments"].get("resume"))).name
    return taken == LAST and made.get("model", {}).get("epoch", epochs) < epochs


def places_of_origin(run: Path, arguments: Mapping[str, Any]) -> tuple[Path, Path]:
    """Name where the folder may be of the checkpoint that a script in the folder `run` started from.

    As it lay from the run's folder, for both may have been moved, and where the arguments of the script name it.
    """
    named = Path(str(arguments["resume"])).parent
    return run / os.path.relpath(named, str(arguments.get("logdir", "."))), named


MARKS = {with_suffix(name, suffix) for name in ("args.json", "metrics.csv") for suffix in SUFFIXES}


def is_run(place: Path) -> bool:
    """Tell whether a script has begun a run in a folder."""
    return any(os.path.isfile(place / mark) for mark in MARKS)


def find_runs(place: Path) -> list[Path]:
    """Find run folders: `place` itself, or those below it, also by links, sorted; each is named once.

    Raises:
        UserError: there are none.
    """
    if is_run(place):
        return [place]
    try:
        os.scandir(place).close()
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}): name another folder") from error
    runs, seen = [], {os.path.realpath(place)}
    for folder, names, _ in os.walk(place, followlinks=True):
        if is_run(Path(folder)):
            runs.append(Path(folder))
        inner: dict[str, str] = {}  # where a name leads -> the name
        for name in sorted(names):
            inner.setdefault(os.path.realpath(os.path.join(folder, name)), name)
        names[:] = [name for real, name in inner.items() if real not in seen]  # links may lead in circles
        seen.update(inner)
    if not runs:
        raise UserError(f"{place} is no run folder, and none is below it: name the --logdir of a run")
    return sorted(runs)
