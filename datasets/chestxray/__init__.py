"""ChestXray: NIH ChestX-ray14, the images with a single label, on the official patient-disjoint lists."""

import argparse
import logging
from pathlib import Path

import numpy as np

from datasets.base import DatasetSpec, Splits
from datasets.chestxray.fetch import fetch_missing
from datasets.chestxray.lists import SEVERAL, patient_of, read_labels, read_list
from datasets.chestxray.source import LISTS, list_problem
from datasets.images.files import FileDataset, images_root, require_reachable
from datasets.images.finder import find_files, locate
from datasets.tables import count_of
from utils.errors import UserError

log = logging.getLogger("dgcmm")

CLASSES = (
    "No Finding",
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
TRAIN_COUNTS = (50500, 3414, 777, 2788, 7327, 1696, 2248, 234, 1241, 829, 397, 587, 551, 817, 65)
TEST_COUNTS = (9861, 801, 316, 1167, 2220, 443, 457, 88, 953, 481, 231, 305, 176, 309, 45)


def prepare(
    root: str, *, manifest: str | None, jobs: int, keep_archives: bool, quiet: bool, download_only: bool = False
) -> None:
    """Bring what the folder lacks; warn of what is odd in it, and of lists that are not NIH's. See `fetch_missing`."""
    folder = Path(root)
    require_reachable(folder)
    contents = fetch_missing(
        folder, manifest, jobs, keep_archives=keep_archives, quiet=quiet, download_only=download_only
    )
    for remark in contents.remarks:
        log.warning("%s", remark)
    for train, name in LISTS.items():
        path = folder / name
        if manifest is None and path.is_file() and (problem := list_problem(path, train, read_list(path))):
            log.warning("%s: this is not the official split", problem)


def load(args: argparse.Namespace) -> Splits:
    """Load both official lists from `--datadir`, less the rows with several labels."""
    folder = images_root(args.datadir, "name the folder that holds ChestX-ray14")
    labels, files = read_labels(folder), find_files(folder).reachable()
    train, test = (_load_list(folder, train, labels, files) for train in (True, False))
    return Splits(train, None, test)


def _load_list(folder: Path, train: bool, labels: dict[str, str], files: list[str]) -> FileDataset:
    """Load the training or the test list.

    Args:
        labels: file name -> labels, see `read_labels`.
        files: paths of the images within the folder.
    """
    names = read_list(folder / LISTS[train])
    unlabelled = [name for name in names if name not in labels]
    if unlabelled:
        what = count_of(unlabelled, "image")
        raise UserError(f"{LISTS[train]}: {what} without a row in the label file: replace one of the two")
    class_of = {name: number for number, name in enumerate(CLASSES)}
    chosen = [name for name in names if SEVERAL not in labels[name]]
    unknown = sorted({labels[name] for name in chosen} - class_of.keys())
    if unknown:
        raise UserError(f"the label file names {unknown[0]!r}, which is none of the {len(class_of)} classes")
    targets = np.array([class_of[labels[name]] for name in chosen], dtype=np.int64)
    patients = np.array([patient_of(name) for name in chosen])
    there = locate(chosen, files).paths
    if missing := [name for name in chosen if name not in there]:
        what = count_of(missing, "image")
        raise UserError(f"{folder}: {what} of {len(chosen)} listed not found: unpack NIH's archives there")
    files = [there[name] for name in chosen]
    return FileDataset(folder, files, CLASSES, targets, chosen, groups=patients)


CHESTXRAY = DatasetSpec(
    load=load,
    resize="stretch",
    train_transform="resized-crop",
    classes=CLASSES,
    train_counts=TRAIN_COUNTS,
    test_counts=TEST_COUNTS,
    prepare=prepare,
    in_files=True,
)
