"""What each script has reached in a run folder, and from what it started: args.json, metrics.csv, health.json.

Nothing here imports torch.
"""

import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

from utils.cli.rules import BEFORE, SAME_RUN_FLAGS
from utils.errors import UserError
from utils.files import read_rows
from utils.training.layout import (
    RESULTS,
    RETRAININGS,
    epochs_of,
    places_of_origin,
    start_times,
    went_on_since,
    with_suffix,
)

ERRORS = {"mse": "reconstructions", "mse_constant": "a constant grey", "mse_class_mean": "the class's mean image"}
# in which the runs of a row may differ
OWN = (*SAME_RUN_FLAGS, "seed", "subset_seed")
LAST_COUNTS = ("epochs", "deterministic")
TABLES = ("csv", "names")  # of these places the name of the file counts
Settings = dict[str, object]


class Started(NamedTuple):
    """What a script left: how it was started, with what its resumptions have changed, and its metrics.csv."""

    arguments: Settings
    nodes: int  # each of which takes `--batch-size` images a step
    data: dict[str, str]  # hashes of the splits
    first: str  # when, as text of ISO 8601 in UTC
    last: str
    model: dict[str, int]  # epoch and step of the model that it took; {} where it does not say
    rows: list[dict[str, str]]  # of its metrics.csv

    def settings(self) -> Settings:
        """Give the flags that make another experiment."""
        tables = {name: Path(str(path)).name for name in TABLES if (path := self.arguments.get(name))}
        nodes = {"world_size": self.nodes} if self.arguments else {}  # a launcher may have given them without the flag
        return {name: value for name, value in self.arguments.items() if name not in OWN} | tables | nodes

    def of_model(self) -> Settings:
        """Give the same and which of a run's checkpoints it started from; nothing where it does not say."""
        return self.settings() | {"resume": self.checkpoint()} if self.arguments else {}

    def checkpoint(self) -> str:
        """Name the file of the checkpoint that it started from, '' where it does not say."""
        return Path(str(self.arguments.get("resume") or "")).name

    def retraining(self) -> str:
        """Tell the suffix of the re-training that made this checkpoint, '' for a training."""
        stem = self.checkpoint().removesuffix(".pth").removesuffix("_prev")
        return next((suffix for suffix in RETRAININGS if stem.endswith(suffix)), "")


NOTHING_LEFT = Started({}, 1, {}, "", "", {}, [])


class Result(NamedTuple):
    """What one script has reached in a run folder."""

    run: Path
    suffix: str
    settings: Settings  # of the flags that make it another experiment
    training: Settings | None  # the same, of the training that it follows; None where that is not to be found
    row: dict[str, str]  # of metrics.csv, the headline or the last one that was measured; {} before the first
    epochs: tuple[int, int | None] | None  # of a script that is not finished: done, and asked for
    data: str  # hash of the test images
    trained_on: str  # hash of the training's images
    seeds: tuple[object, object, object]  # --seed and --subset-seed of the training, --seed of the script
    health: dict[str, float]  # of the decoder, see health.json; {} where the script has not measured it
    outdated: bool  # the training has gone on since
    epochs_apart: tuple[int, int] | None  # see the function of that name

    def same_images(self, other: "Result") -> bool:
        """Tell whether both trainings had the same images, as far as one subset seed can tell; another drew others."""
        return self.seeds[1] != other.seeds[1] or self.trained_on == other.trained_on


def read_results(run: Path) -> list[Result]:
    """Read what each script has reached in a run folder.

    Raises:
        UserError: a file is damaged, or none of this project's.
    """
    found = []
    for suffix in RESULTS:
        own = read_started(run, suffix)
        if own == NOTHING_LEFT:
            continue
        if suffix:
            base, retrained = history(run, own)
            settings, training = own.of_model(), base.settings()
            if retrained.arguments:
                training["retraining"] = retrained.of_model()
        else:
            base, retrained, settings, training = own, NOTHING_LEFT, own.settings(), {}
        rows, asked = own.rows, own.arguments.get("epochs")
        measured, done = [row for row in rows if row["split"]], epochs_of(rows)
        finished = bool(rows) and rows[-1]["split"] == "test" and (suffix == "_eval" or asked is None or done >= asked)
        found.append(
            Result(
                run,
                suffix,
                settings,
                training if base.arguments else None,
                row=measured[-1] if measured else {},
                epochs=None if finished else (done, asked),
                data=own.data.get("test", ""),
                trained_on=base.data.get("train", ""),
                seeds=(base.arguments.get("seed"), base.arguments.get("subset_seed"), own.arguments.get("seed")),
                health=read_health(run / with_suffix("health.json", suffix)),
                outdated=suffix != "" and is_outdated(own, base, retrained),
                epochs_apart=epochs_apart(own, base) if suffix in RETRAININGS and not retrained.arguments else None,
            )
        )
    return found


def history(run: Path, own: Started) -> tuple[Started, Started]:
    """Read how the training was started whose model a script took up and, if that was re-trained, its re-training."""
    folder, retrained = origin(run, own), NOTHING_LEFT
    if folder and (suffix := own.retraining()):
        retrained = read_started(folder, suffix)
        folder = origin(folder, retrained)
    return read_started(folder, "") if folder else NOTHING_LEFT, retrained


def is_outdated(own: Started, base: Started, retrained: Started) -> bool:
    """Tell whether the training, or re-training, whose model a script took has gone on since."""
    made = {"started": own.first, "arguments": own.arguments, "model": own.model}
    return went_on_since(made, (base.last, retrained.last), epochs_of(base.rows))


def epochs_apart(own: Started, base: Started) -> tuple[int, int] | None:
    """Give the epoch of the model that a re-training took, and that of its training's numbers; None if it is one.

    With a hold-out the numbers are of the best epoch.
    """
    if not base.rows or base.rows[-1]["split"] != "test":
        return None
    measured = int(base.rows[-1]["epoch"])
    taken = own.model.get("epoch", measured)
    return (taken, measured) if taken != measured else None


def origin(run: Path, script: Started) -> Path | None:
    """Find the folder of what made the checkpoint that a script in a run folder started from; None if it is gone."""
    if not script.checkpoint():
        return run
    made = with_suffix("args.json", script.retraining())
    return next((folder for folder in places_of_origin(run, script.arguments) if (folder / made).exists()), None)


def read_started(run: Path, suffix: str) -> Started:
    """Read what a script left in a run folder: args.json, its arguments completed by `BEFORE`, and metrics.csv.

    Where a file is missing, what it says is empty. An argument that a resumption changed has its whole history for a
    value, as such a run is none of the others. Only of the number of epochs the last value counts, and of
    `--deterministic`, which may change no number.
    """
    path, rows = run / with_suffix("args.json", suffix), read_metrics(run / with_suffix("metrics.csv", suffix))
    if not path.exists():
        return NOTHING_LEFT._replace(rows=rows)
    try:
        content = json.loads(path.read_text())
        later: Settings = {}
        for resumption in content["resumed"]:
            for name, (before, now) in resumption["changed"].items():
                told = f"{later.get(name, before)}, from epoch {resumption['after_epoch'] + 1} on {now}"
                later[name] = now if name in LAST_COUNTS else told
        arguments = BEFORE | content["arguments"] | later
        started = start_times(content)
        data, model = (dict(content.get(name) or {}) for name in ("data", "model"))
        return Started(arguments, int(content.get("nodes", 1)), data, started[0], max(started), model, rows)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): leave this run out") from error


def read_health(path: Path) -> dict[str, float]:
    """Read the squared errors in a health.json; none where there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {name: float(content[name]) for name in ERRORS}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): leave this run out") from error


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read a metrics.csv; no rows where there is no such file yet."""
    if not path.exists():
        return []
    try:
        rows = read_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): leave this run out") from error
    if not rows or not all(_is_measurement(row) for row in rows):
        raise UserError(f"{path} is not a table of this project's scripts: leave this run out")
    return rows


def _is_measurement(row: dict[str, str]) -> bool:
    """Tell whether a row has an epoch, a split and otherwise numbers, or nothing, in its cells."""
    try:
        numbers = {name: float(text) for name, text in row.items() if name != "split" and text}
    except (TypeError, ValueError):  # more cells than the header, or no number
        return False
    finite = all(map(math.isfinite, numbers.values()))
    return finite and "split" in row and "epoch" in numbers and row["epoch"].isdecimal()
