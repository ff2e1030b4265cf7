"""ChestXray: NIH ChestX-ray14, the images with a single label, on the official patient-disjoint lists."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.images.files import FileDataset, image_paths, locate, require_reachable
from datasets.images.grey import GreyTransform, RandomCropAndFlip, ResizeAndCentreCrop
from datasets.names import DATASETS
from datasets.nih.fetch import fetch_missing
from datasets.nih.source import LABEL_FILES, LISTS, list_problem
from utils.errors import UserError

log = logging.getLogger("dgcmm")

INFO = DATASETS["ChestXray"]


def prepare(root: str, manifest: str | None, **options: Any) -> None:
    """Bring what the folder lacks; `options` are those of `fetch_missing`."""
    require_reachable(Path(root))
    fetch_missing(Path(root), missing_images, manifest=manifest, **options)
    for train, name in LISTS.items():
        path = Path(root) / name
        if manifest is None and path.is_file() and (problem := list_problem(path, train, len(_read_list(path)))):
            log.warning("%s: this is not the official split", problem)


def load(root: str, train: bool, transform: Callable | None, subset_seed: int) -> FileDataset:
    """The official training or test list, less the rows with several labels."""
    folder = Path(root)
    require_reachable(folder)
    if not folder.is_dir():
        raise UserError(f"--datadir {root} does not exist: name the folder that holds ChestX-ray14")
    labels = _read_labels(folder)
    names = _read_list(folder / LISTS[train])
    unlabelled = [name for name in names if name not in labels]
    if unlabelled:
        raise UserError(f"{LISTS[train]}: {_count(unlabelled)} without a row in the label file: replace one of the two")
    class_of = {name: number for number, name in enumerate(INFO.classes)}
    chosen = [name for name in names if "|" not in labels[name]]
    unknown = sorted({labels[name] for name in chosen} - class_of.keys())
    if unknown:
        raise UserError(f"the label file names {unknown[0]!r}, which is none of the {len(class_of)} classes")
    targets = np.array([class_of[labels[name]] for name in chosen], dtype=np.int64)
    patients = np.array([_patient(name) for name in chosen])
    files, missing = locate(folder, chosen)
    if missing:
        raise UserError(f"{folder}: {_count(missing)} of {len(chosen)} listed not found: unpack NIH's archives there")
    return FileDataset(folder, files, INFO.classes, targets, chosen, transform, patients)


def transform(train: bool, new_size: int, crop_size: int) -> GreyTransform:
    """In training a random resized crop and a flip; else resized and centre-cropped."""
    return RandomCropAndFlip(crop_size) if train else ResizeAndCentreCrop(new_size, crop_size)


def _read_labels(folder: Path) -> dict[str, str]:
    """File name -> labels joined with '|', by position: the header, an entry that no list names, differs."""
    path = next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no {' or '.join(LABEL_FILES)}: put NIH's label file there")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it") from error


def _read_list(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): put NIH's list there") from error
    if not names:
        raise UserError(f"{path} is empty: put NIH's list there")
    return names


def _patient(name: str) -> int:
    """00000013_005.png is an image of patient 13."""
    try:
        return int(name.split("_")[0])
    except ValueError as error:
        raise UserError(f"{name!r} in a list is no image name of ChestX-ray14 (like 00000013_005.png)") from error


def _count(names: list[str]) -> str:
    return f"{len(names)} images ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def missing_images(folder: Path) -> list[str] | None:
    """The listed images with a single label that are not there; None if label file or lists are not there."""
    if not all((folder / name).is_file() for name in LISTS.values()):
        return None
    if not any((folder / name).is_file() for name in LABEL_FILES):
        return None
    labels, there = _read_labels(folder), image_paths(folder)
    listed = (name for train in LISTS for name in _read_list(folder / LISTS[train]))
    return [name for name in listed if name not in there and "|" not in labels.get(name, "")]


if __name__ == "__main__":
    from datasets.nih.check import main
    from utils.errors import run_script

    run_script(main)
