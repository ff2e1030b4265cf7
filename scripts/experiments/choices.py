"""What is chosen on validation images: the setting of each row, and the value of each method on its codes."""

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import write_text

Tried = tuple[float, float]  # learning rate, own parameter
FILE = "chosen.json"


class Choice(NamedTuple):
    """What was chosen for a row.

    Attributes:
        rate, own: learning rate and own parameter of its training.
        values: method on the codes -> value of its parameter.
        method: the best of them, 'trained' among them.
    """

    rate: float
    own: float
    values: dict[str, float | str]
    method: str


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last_validation(run: Path) -> float | None:
    """Return the balanced accuracy on the validation images after the last epoch of a run; None if it is not done."""
    if not (run / "metrics.csv").exists():
        return None
    measured = [row for row in read_rows(run / "metrics.csv") if row["split"] == "val"]
    return float(measured[-1]["acsa"]) if measured else None


def mean_over_subsets(setting: Path, subsets: Sequence[int]) -> float | None:
    """Average `last_validation` over the subsets of a setting; None if one is not done."""
    values = [last_validation(setting / f"subset{subset}") for subset in subsets]
    return None if None in values else statistics.fmean(values)


def best(settings: dict[Tried, Path], subsets: Sequence[int]) -> Tried | None:
    """Find the setting with the best mean over the subsets, of equals the first; None if one is not done."""
    means = {tried: mean_over_subsets(folder, subsets) for tried, folder in settings.items()}
    return None if None in means.values() else max(means, key=means.__getitem__)


def choose(tried: Tried, setting: Path, subsets: Sequence[int]) -> Choice:
    """Choose each method's value, and the best method, on the runs of the setting that was chosen."""
    found: dict[tuple[str, str], list[float]] = {}
    for subset in subsets:
        path = setting / f"subset{subset}" / "metrics_baselines.csv"
        for row in read_rows(path) if path.exists() else ():
            if row["split"] == "val":
                found.setdefault((row["method"], row["value"]), []).append(float(row["acsa"]))
    means = {key: statistics.fmean(values) for key, values in found.items() if len(values) == len(subsets)}
    values: dict[str, float | str] = {}
    for method in dict.fromkeys(method for method, _ in means):
        value = max((key for key in means if key[0] == method), key=means.__getitem__)[1]
        if value:
            values[method] = value_of(value)
    method = max(means, key=means.__getitem__)[0] if means else "trained"
    return Choice(*tried, values, method)


def value_of(text: str) -> float | str:
    """Read the value of a method's parameter as a CSV file has it: a number, or a name."""
    try:
        return float(text)
    except ValueError:
        return text


def write_choices(path: Path, choices: dict[str, dict[str, Choice]]) -> None:
    """Write what was chosen: regime -> row -> choice."""
    content = {regime: {row: choice._asdict() for row, choice in rows.items()} for regime, rows in choices.items()}
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_choices(path: Path) -> dict[str, dict[str, Choice]]:
    """Read what `write_choices` wrote; nothing if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        return {regime: {row: Choice(**choice) for row, choice in rows.items()} for regime, rows in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, and the stage tune makes it again") from error
