"""Reading what figures show from the files of a run folder."""

import csv
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.choice import images_of, some_classes
from utils.errors import UserError
from utils.files import open_table, read_rows
from utils.training.checkpoint import digest
from utils.training.folder import RunFolder
from utils.training.layout import (
    RESULTS,
    RETRAININGS,
    codes_beside,
    epochs_of,
    places_of_origin,
    start_times,
    went_on_since,
)


class History(NamedTuple):
    """metrics.csv: the epochs, and the row of the test set that a run with a hold-out ends with."""

    epochs: list[dict[str, str]]
    test: dict[str, str] | None

    def column(self, name: str) -> np.ndarray:
        """Take a number of each epoch, (E,); NaN where it is undefined or was not measured."""
        return np.array([float(row.get(name) or "nan") for row in self.epochs])


class ClassResults(NamedTuple):
    """metrics_per_class.csv: names, training images and recall of the classes, (K,) each."""

    names: list[str]
    counts: np.ndarray
    recalls: np.ndarray  # NaN for a class of which no image was measured


class Answers(NamedTuple):
    """predictions.csv: label, prediction and its probability for each image, (N,) each."""

    targets: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray


class TrainingCodes(NamedTuple):
    """Codes of training images of some classes, and the means of these classes' components."""

    codes: np.ndarray  # (N,D)
    targets: np.ndarray  # (N,) class numbers
    classes: np.ndarray  # (C,) class numbers, from the largest to the smallest
    means: np.ndarray  # (C,D); (0,D) where there is no prior, or it is of another model
    own: bool  # a component is of a class
    names: list[str]  # of all classes, (K,)
    counts: np.ndarray  # training images of all classes, (K,)


def read_history(path: Path) -> History:
    """Read a metrics.csv."""
    rows = read_rows(path)
    ends_with_test = rows[-1]["split"] == "test" and any(row["split"] == "val" for row in rows)
    return History(rows[:-1], rows[-1]) if ends_with_test else History(rows, None)


def read_classes(path: Path) -> ClassResults:
    """Read a metrics_per_class.csv."""
    rows = read_rows(path)
    recalls = [float(row["recall"]) if int(row["images"]) else np.nan for row in rows]
    counts = [int(row["train_images"]) for row in rows]
    return ClassResults([row["class"] for row in rows], np.array(counts), np.array(recalls))


def read_answers(path: Path) -> Answers:
    """Read a predictions.csv; of the probabilities, which may be many millions, only those of the predictions.

    The last one that was read is kept, for the next figure.
    """
    return _read_answers(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read_answers(path: Path, _changed: int) -> Answers:
    found = []
    with open_table(path) as file:
        reader = csv.reader(file)
        first = next(reader).index("prediction") + 1
        for row in reader:
            prediction = int(row[first - 1])
            found.append((int(row[first - 2]), prediction, float(row[first + prediction])))
    targets, predictions, confidences = zip(*found, strict=True)
    return Answers(np.array(targets), np.array(predictions), np.array(confidences))


def read_record(folder: RunFolder) -> dict[str, Any] | None:
    """Read the args.json of a script; None where there is none."""
    path = folder.file("args.json")
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from error


def find_codes(folder: RunFolder) -> list[Path]:
    """Find the codes that an augmentation has used, [] or [path]: they lie beside the trained checkpoint."""
    record = read_record(folder)
    if record is None:
        return []
    arguments = record["arguments"]
    name = codes_beside(Path(arguments["resume"])).name
    places = (place / name for place in places_of_origin(folder.path, arguments))
    return [path for path in places if path.exists()][:1]


def read_codes(path: Path, classes_at_most: int, images_at_most: int) -> TrainingCodes:
    """Read some of the training codes in `<checkpoint>_codes.pth`, and the prior's means of the checkpoint beside it.

    The files may be larger than the memory, and stay on the disk but for what is read; their digests are not verified.
    """
    content = torch.load(path, mmap=True, weights_only=True)
    targets = content["train"]["targets"].numpy()
    counts = np.bincount(targets, minlength=len(content["class_names"]))
    classes = some_classes(counts, classes_at_most)
    rows = images_of(classes, targets, images_at_most)
    codes = content["train"]["mu"][torch.from_numpy(rows)].float().numpy()
    checkpoint = path.with_name(path.name.replace("_codes.pth", ".pth"))
    trained = torch.load(checkpoint, mmap=True, weights_only=True) if checkpoint.exists() else {}
    state = trained.get("state_dict", {})
    means = np.empty((0, codes.shape[1]), dtype=codes.dtype)
    started = "prior.means" in state and state["prior.logits"].any()
    if started and digest(state) == content["key"]["weights"]:  # else the training went on since
        means = state["prior.means"][torch.from_numpy(classes)].float().numpy()
    own = trained.get("args", {}).get("gmm_assign") == "label"
    return TrainingCodes(codes, targets[rows], classes, means, own, list(content["class_names"]), counts)


def titles_of(folder: RunFolder, tables: Mapping[str, Path]) -> dict[str, str]:
    """Say of each script what it has made; also of which epoch's model where a re-training took another one.

    Args:
        tables: suffix of a script -> its metrics_per_class.csv.
    """
    epochs = {}
    for suffix in tables:
        if suffix in RETRAININGS and (record := read_record(RunFolder(folder.path, suffix))) is not None:
            epochs[suffix] = record.get("model", {}).get("epoch")
        elif suffix == "":
            epochs[suffix] = int(read_rows(tables[suffix])[0]["epoch"])
    if len({epoch for epoch in epochs.values() if epoch is not None}) < 2:
        return dict(RESULTS)
    return RESULTS | {suffix: f"{RESULTS[suffix]}, model of epoch {epoch}" for suffix, epoch in epochs.items() if epoch}


def is_of_another_model(folder: RunFolder) -> bool:
    """Tell whether a re-training is of another model than its folder's, or of an epoch before its last."""
    if folder.suffix in ("", "_eval"):
        return False
    retraining, training = read_record(folder), read_record(RunFolder(folder.path))
    if retraining is None or training is None:
        return False
    places = [place.resolve() for place in places_of_origin(folder.path, retraining["arguments"])]
    if folder.path.resolve() not in places:
        return True
    epochs = _epochs_done(RunFolder(folder.path).file("metrics.csv"))
    return went_on_since(retraining, start_times(training), epochs)


def _epochs_done(metrics: Path) -> int:
    """Tell how many epochs a metrics.csv is of; 0 where it is missing or damaged, which is told by who draws it."""
    try:
        return epochs_of(read_rows(metrics))
    except (OSError, ValueError, TypeError, KeyError):
        return 0
