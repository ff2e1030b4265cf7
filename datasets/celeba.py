"""CelebA: five colours of hair with the long tail of the DGC paper (15,000 down to 150 images a class).

An image that has several of them is a row of each. For research that is not commercial only (mmlab.ie.cuhk.edu.hk).
"""

import argparse
from pathlib import Path

import numpy as np

from datasets.base import DatasetSpec, Splits
from datasets.images.files import FileDataset, images_root, missing_files, possible_places
from datasets.pool import draw_splits
from datasets.tables import count_of, read_names, repeated
from utils.errors import UserError

CLASSES = ("Blond_Hair", "Black_Hair", "Bald", "Brown_Hair", "Gray_Hair")
TRAIN_COUNTS = (15_000, 1_500, 750, 300, 150)
TEST_COUNTS = (2_660, 5_422, 423, 3_587, 636)
ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
TRAIN, TEST = "0", "2"  # in the partition
REMEDY = (
    f"it cannot be downloaded by a script; put {ATTRIBUTES}, {PARTITION} and the folder {IMAGES} (unpacked from "
    f"{IMAGES}.zip) from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html there"
)


def load(args: argparse.Namespace) -> Splits:
    """Load the lists in `--datadir`, or its folder celeba, where torchvision puts them; draw the training subset."""
    root = images_root(args.datadir)
    root = next((place for place in possible_places(root, "celeba") if (place / ATTRIBUTES).is_file()), root)
    if lacking := [name for name in (ATTRIBUTES, PARTITION, IMAGES) if not (root / name).exists()]:
        raise UserError(f"{root} lacks {', '.join(lacking)} of CelebA: {REMEDY}")
    pairs = _pairs(root / PARTITION)
    _require_each_once(pairs, root / PARTITION)
    part_of = dict(pairs)
    rows = _labelled(root / ATTRIBUTES)
    if unknown := [name for name, _ in rows if name not in part_of]:
        raise UserError(
            f"{root / PARTITION} lacks {count_of(unknown, 'image')} of {ATTRIBUTES}: replace one of the two"
        )
    number_of = {name: number for number, name in enumerate(part_of)}
    parts = ([row for row in rows if part_of[row[0]] == part] for part in (TRAIN, TEST))
    train, test = (_dataset(root, part, number_of) for part in parts)
    return draw_splits(train, test, TRAIN_COUNTS, args)


def _pairs(path: Path) -> list[list[str]]:
    rows = [line.split() for line in read_names(path, "replace it")]
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != 2]:
        raise UserError(f"{path}, line {wrong[0]}: 2 columns are expected: replace it")
    return rows


def _require_each_once(lines: list[list[str]], path: Path) -> None:
    """Raise a `UserError` if two lines of a list name one image."""
    if twice := repeated(line[0] for line in lines):
        raise UserError(f"{path} names {count_of(twice, 'image')} more than once: replace it")


def _labelled(path: Path) -> list[tuple[str, int]]:
    """Read (name, label) of each colour that an image has; the file begins with a count and a header of attributes."""
    rows = [line.split() for line in read_names(path, "replace it")]
    if len(rows) < 2 or not set(CLASSES) <= set(rows[1]):
        raise UserError(f"{path} has no columns {', '.join(CLASSES)} in its second line: replace it")
    count, header, *lines = rows
    columns = [1 + header.index(name) for name in CLASSES]
    if any(len(line) != 1 + len(header) for line in lines) or count != [str(len(lines))]:
        raise UserError(f"{path} is not complete: its first line names {' '.join(count)} images: replace it")
    _require_each_once(lines, path)
    return [(line[0], label) for line in lines for label, column in enumerate(columns) if line[column] == "1"]


def _dataset(root: Path, rows: list[tuple[str, int]], number_of: dict[str, int]) -> FileDataset:
    files = [f"{IMAGES}/{name}" for name, _ in rows]
    if missing := missing_files(root, files):
        raise UserError(f"{root}: {count_of(missing, 'image')} of {len(files)} not found: unpack {IMAGES}.zip again")
    targets = np.array([label for _, label in rows], dtype=np.int64)
    ids = [f"{CLASSES[label]}/{name}" for name, label in rows]
    # an image that is there twice is held out twice, or not at all
    return FileDataset(
        root, files, CLASSES, targets, ids, groups=np.array([number_of[name] for name, _ in rows]), colour=True
    )


CELEBA = DatasetSpec(
    load=load,
    resize="stretch",  # of the aligned 178x218 images, as in the paper
    train_transform="shift-flip",
    classes=CLASSES,
    train_counts=TRAIN_COUNTS,
    test_counts=TEST_COUNTS,
    in_files=True,
    colour=True,
    pool=True,
)
