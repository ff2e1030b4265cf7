"""From images with labels, as a folder or a table names them, to the splits of a run."""

import argparse
import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import Splits
from datasets.images.files import FileDataset
from datasets.subsets import hold_out
from datasets.tables import count_of, read_names, repeated
from utils.errors import UserError

log = logging.getLogger("dgcmm")

PARTS = ("train", "val", "test")
SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
TEST_SHARE = 0.2  # of all images, where the data names no test set


class Listed(NamedTuple):
    """An image as a folder or a table names it.

    Attributes:
        path: within the data set's folder, with slashes.
        label: of its class.
        part: 'train', 'val', 'test'; '' where the data does not say.
        group: whose image it is; '' where the data does not say.
    """

    path: str
    label: str
    part: str = ""
    group: str = ""


def part_of(name: str) -> str:
    """Name the part that a folder, or a cell of a table, means: 'train' for 'Training'; any other in small letters."""
    return SPELLINGS.get(name.lower(), name.lower())


def split_images(root: Path, images: Sequence[Listed], args: argparse.Namespace) -> Splits:
    """Make the splits of listed images, and check that they can be trained on and measured.

    Without a test set the validation set is one; without that too a share of the images, by `--subset-seed`.

    Args:
        root: the folder of the images.
        images: all of them; either each or none names its part.
        args: names and subset_seed are read.

    Raises:
        UserError: fewer than two classes, a class without a training image, or names that do not fit.
    """
    by_part = {part: [image for image in images if image.part == part] for part in ("", *PARTS)}
    if by_part["val"] and not by_part["test"]:
        log.info("val is the test set: there is no other")
        by_part["test"], by_part["val"] = by_part["val"], []
    training = by_part["train"] or by_part[""]
    if not training:
        raise UserError(f"{root} has no training image: name the part of some images train")
    labels = sorted({image.label for image in training}, key=_by_number_or_name)
    classes = read_class_names(args.names, labels) if args.names else {label: label for label in labels}
    if others := [image for image in images if image.label not in classes]:
        label, where = others[0].label, others[0].part
        paths = [image.path for image in others if image.label == label]
        alike = "".join(f", train has {other!r}" for other in labels if _folded(other) == _folded(label))
        raise UserError(
            f"{root}: label {label!r} occurs in {where} only, {count_of(paths, 'image')}{alike}: put training images "
            "of it there too, or leave it out"
        )
    if len(labels) < 2:
        raise UserError(f"{root} has one class, {labels[0]!r}: two at least are needed")
    folded = Counter(map(_folded, labels))
    if alike := [label for label in labels if folded[_folded(label)] > 1]:
        log.warning("classes whose names differ in case only: %s; is one of them misspelt?", ", ".join(alike))
    numbers = _group_numbers(images)
    data = {part: _dataset(root, found, classes, numbers) for part, found in by_part.items() if found}
    if "test" in data:
        return Splits(data.get("train"), data.get("val"), data["test"])
    whole = data.get("train") or data[""]
    kept, held = hold_out(whole.targets, len(classes), TEST_SHARE, args.subset_seed, whole.groups)
    if not len(held):
        raise UserError(
            f"{root} names no test set, and {TEST_SHARE:.0%} of its {len(whole)} images cannot be drawn as one: that "
            "would take the only image of a class, or part a group; add images, or name a test set"
        )
    log.info("no test set: %d of %d images, drawn by --subset-seed, are held out as one", len(held), len(whole))
    return Splits(whole.subset(kept), data.get("val"), whole.subset(held))


def _group(image: Listed) -> str:
    """Name the group of an image; who has none is one alone."""
    return image.group or f"\0{image.path}"


def _group_numbers(images: Sequence[Listed]) -> dict[str, int]:
    """Number the groups, alike for all splits; empty where no image has one, of a million images, perhaps."""
    if not any(image.group for image in images):
        return {}
    return {name: number for number, name in enumerate(sorted({_group(image) for image in images}))}


def _dataset(
    root: Path, images: Sequence[Listed], classes: dict[str, str], group_numbers: dict[str, int]
) -> FileDataset:
    number_of = {label: number for number, label in enumerate(classes)}
    targets = np.array([number_of[image.label] for image in images], dtype=np.int64)
    paths = np.array([image.path for image in images])
    groups = None
    if any(image.group for image in images):
        groups = np.array([group_numbers[_group(image)] for image in images])
    return FileDataset(root, paths, tuple(classes.values()), targets, paths, groups=groups, colour=True)


def read_class_names(path: str, labels: Sequence[str]) -> dict[str, str]:
    """Read the names of classes: on each line a label and, after a blank, tab or comma, its name.

    Returns:
        Label -> name, in the order of the lines.

    Raises:
        UserError: the file cannot be read, or does not name exactly these labels, each once.
    """
    known = set(labels)
    names: dict[str, str] = {}
    for line in read_names(Path(path), "name the file with --names"):
        cut = min((at for sign in " \t," if (at := line.find(sign)) >= 0), default=len(line))
        label, name = (line, line) if line in known else (line[:cut], line[cut + 1 :].strip() or line[:cut])
        if label in names:
            raise UserError(f"--names {path} names {label!r} twice: keep one line of it")
        names[label] = name
    lacking, unknown = sorted(known - names.keys()), sorted(names.keys() - known)
    if lacking or unknown:
        wrong = [f"lacks {count_of(lacking, 'label')} of the data"] if lacking else []
        wrong += [f"names {count_of(unknown, 'label')} that the data has not"] if unknown else []
        raise UserError(f"--names {path} {' and '.join(wrong)}: correct it")
    if twice := repeated(names.values()):
        raise UserError(f"--names {path} gives two labels the name {twice[0]!r}: give each its own")
    return names


def _folded(label: str) -> str:
    """Give what a label has in common with those that differ from it in case, or in how an accent is stored."""
    return unicodedata.normalize("NFKC", label).casefold()


def _by_number_or_name(label: str) -> tuple[bool, int, str]:
    """Sort labels: whole numbers by their value before all others by their name."""
    number = label.isascii() and label.isdecimal()
    return (not number, int(label) if number else 0, label)
