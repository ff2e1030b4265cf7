"""What is chosen on validation images: the setting of each row, and the value of each method on its codes."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from scripts.experiments.results import damage_in_one_line
from utils.errors import UserError
from utils.files import read_rows, write_text
from utils.training.layout import BASELINES

Tried = tuple[float, float]  # learning rate, own parameter
CHOSEN_FILE = "chosen.json"
Key = TypeVar("Key")


class Choice(NamedTuple):
    """What was chosen for a row.

    Attributes:
        rate, own: learning rate and own parameter of its training.
        values: method on the codes -> value of its parameter.
        method: the best of them, 'trained' among them.
        settings: how many were tried.
        subsets: on which the setting was chosen.
    """

    rate: float
    own: float
    values: dict[str, float | str]
    method: str
    settings: int
    subsets: Sequence[int]


def validated(setting: Path, subsets: Sequence[int]) -> dict[tuple[str, str], float]:
    """Average the balanced accuracy on the validation images over the subsets of a setting, after the last epoch.

    Returns:
        (method, value of its parameter) -> mean, of 'trained' alone for a run without methods on its codes; nothing if
        the run of a subset is not done.

    Raises:
        UserError: a file of a run is damaged.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for subset in subsets:
        folder = setting / f"subset{subset}"
        with damage_in_one_line(folder):
            for row in _validation_rows(folder):
                found.setdefault((row.get("method", "trained"), row.get("value", "")), []).append(float(row["acsa"]))
    return {key: statistics.fmean(values) for key, values in found.items() if len(values) == len(subsets)}


def _validation_rows(run: Path) -> list[dict[str, str]]:
    """Read the last measurement on the validation images, of every method if there are several."""
    methods, epochs = run / BASELINES, run / "metrics.csv"
    if methods.exists():
        return [row for row in read_rows(methods) if row["split"] == "val"]
    return [row for row in read_rows(epochs) if row["split"] == "val"][-1:] if epochs.exists() else []


def first_best(scores: Mapping[Key, float]) -> Key:
    """Find the key with the highest score, of equals the first; equal means may differ in their last bits."""
    return max(scores, key=lambda key: round(scores[key], 9))


def best(settings: dict[Tried, Path], subsets: Sequence[int]) -> Tried | None:
    """Find the setting whose best method has the best mean over the subsets, of equals the first.

    As the methods come after a training, and are what is compared, the settings are judged by them too.

    Returns:
        The setting; None if a run of one is not done.
    """
    means = {tried: max(validated(folder, subsets).values(), default=None) for tried, folder in settings.items()}
    return None if None in means.values() else first_best(means)


def choose_methods(setting: Path, subsets: Sequence[int]) -> tuple[dict[str, float | str], str]:
    """Choose the value of each method, and the best method, on the runs of a setting."""
    means = validated(setting, subsets)
    values: dict[str, float | str] = {}
    for method in dict.fromkeys(method for method, _ in means):
        _, value = first_best({key: mean for key, mean in means.items() if key[0] == method})
        if value:
            values[method] = value_of(value)
    return values, first_best(means)[0]


def value_of(text: str) -> float | str:
    """Read the value of a method's parameter as a CSV file has it: a number, or a name."""
    try:
        return float(text)
    except ValueError:
        return text


def write_choices(results: Path, choices: dict[str, dict[str, Choice]]) -> None:
    """Write what was chosen, regime -> row -> choice, into the folder of results."""
    content = {regime: {row: choice._asdict() for row, choice in rows.items()} for regime, rows in choices.items()}
    write_text(results / CHOSEN_FILE, json.dumps(content, indent=2) + "\n")


def read_choices(results: Path) -> dict[str, dict[str, Choice]]:
    """Read what `write_choices` wrote into the folder of results; nothing if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = results / CHOSEN_FILE
    try:
        content = json.loads(path.read_text())
        return {regime: {row: Choice(**choice) for row, choice in rows.items()} for regime, rows in content.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name another --results") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, and the stage tune makes it again") from error
