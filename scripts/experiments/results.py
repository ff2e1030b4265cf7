"""What lies in the results: the runs of a stage, and the numbers of each."""

import contextlib
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import read_rows
from utils.training.layout import BASELINES, GENERATIVE_HALF, ROBUSTNESS, with_suffix

# what augment_ftl.py and augment.py made in a run folder, and in one below it -> the method
RETRAINED = {
    "aug_ftl": "case-1",
    "aug": "case-2",
    "adjusted/aug_ftl": "case-1-adjusted",
    "adjusted/aug": "case-2-adjusted",
}

Numbers = dict[str, float]  # metric -> value; undefined ones are left out


class Run(NamedTuple):
    """A finished run in the results.

    Attributes:
        folder: of its files.
        subset: on which it was trained.
        methods: as trained, and what was made of it -> metrics on the test set.
        conditions: (method, condition of the test images) -> metrics.
    """

    folder: Path
    subset: int
    methods: dict[str, Numbers]
    conditions: dict[tuple[str, str], Numbers]


def numbers_of(row: dict[str, str]) -> Numbers:
    """Take the numbers of a row of a CSV file."""
    found = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except ValueError:
            continue
    return found


def retrained_file(folder: Path, file: str, name: str) -> Path:
    """Name a file (such as metrics.csv) of a re-training, a key of `RETRAINED`, in a run folder."""
    return (folder / name).with_name(with_suffix(file, f"_{Path(name).name}"))


@contextlib.contextmanager
def damage_in_one_line(folder: Path) -> Iterator[None]:
    """Raise a `UserError` where a file of a run in the results is damaged, as after a loss of power."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{folder} has a damaged file: move the folder away, and its stage makes it again") from error


def read_run(folder: Path) -> Run:
    """Read the test metrics of a run: those of training, of the methods on its codes, and of both cases.

    Raises:
        UserError: a file is damaged.
    """
    with damage_in_one_line(folder):
        return _read_run(folder)


def _read_run(folder: Path) -> Run:
    methods = {"trained": numbers_of(read_rows(folder / "metrics.csv")[-1])}
    baselines = folder / BASELINES
    if baselines.exists():
        for row in read_rows(baselines):
            if row["split"] == "test":
                methods[row["method"]] = methods.get(row["method"], {}) | numbers_of(row)
    for name, method in RETRAINED.items():
        path = retrained_file(folder, "metrics.csv", name)
        if path.exists():
            methods[method] = numbers_of(read_rows(path)[-1])
    conditions = read_conditions(folder)
    for (method, condition), numbers in conditions.items():
        if condition == "clean" and "calibration_error" in numbers:  # which the scripts of both cases do not measure
            methods.setdefault(method, {}).setdefault("calibration_error", numbers["calibration_error"])
    return Run(folder, int(folder.name.removeprefix("subset")), methods, conditions)


def read_runs(folder: Path) -> list[Run]:
    """Read the runs of a row or a setting, one a subset, in their order."""
    files = folder.glob("subset*/metrics.csv")
    folders = [path.parent for path in files if path.parent.name.removeprefix("subset").isdecimal()]
    return sorted(map(read_run, folders), key=lambda run: run.subset)


def read_conditions(folder: Path) -> dict[tuple[str, str], Numbers]:
    """Read what robustness.py measured of a run: (method, condition) -> metrics."""
    path = folder / ROBUSTNESS
    rows = read_rows(path) if path.exists() else []
    return {(RETRAINED.get(row["classifier"], row["classifier"]), row["condition"]): numbers_of(row) for row in rows}


def read_generative_half(run: Run) -> Numbers:
    """Read what robustness.py says of the generative half; nothing where there is none.

    Its errors are means over the images: not those of health.json, which are means over the classes.
    """
    return _numbers_in(run.folder / GENERATIVE_HALF)


def read_decoder(run: Run) -> Numbers:
    """Read what train.py says of the decoder after the last epoch; nothing where there is none."""
    return _numbers_in(run.folder / "health.json")


def _numbers_in(path: Path) -> Numbers:
    with damage_in_one_line(path.parent):
        content = json.loads(path.read_text()) if path.exists() else {}
        return {name: value for name, value in content.items() if isinstance(value, int | float)}


def values_under(runs: Sequence[Run], method: str, condition: str, metric: str) -> dict[int, float]:
    """Take a metric of a method under a condition: subset -> value, of the runs that have it."""
    found = {run.subset: run.conditions.get((method, condition), {}) for run in runs}
    return {subset: numbers[metric] for subset, numbers in found.items() if metric in numbers}


def values_of(runs: Sequence[Run], method: str, metric: str) -> dict[int, float]:
    """Take a metric of a method: subset -> value, of the runs that have it."""
    return {run.subset: run.methods[method][metric] for run in runs if metric in run.methods.get(method, {})}


def mean_and_deviation(values: Sequence[float], digits: int = 4) -> str:
    """Write mean and standard deviation over subsets; '-' for nothing."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
