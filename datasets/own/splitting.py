"""From images with labels, as a folder or a table names them, to the splits of a run."""

import argparse
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import Splits
from datasets.images.files import FileDataset
from datasets.images.finder import real_places
from datasets.subsets import hold_out
from datasets.tables import count_of, in_another_form, read_names, repeated
from utils.errors import UserError

log = logging.getLogger("dgcmm")

PARTS = ("train", "val", "test")
SPELLINGS = {
    **dict.fromkeys(("training", "train_set", "training_set"), "train"),
    **dict.fromkeys(("valid", "validation", "val_set", "validation_set", "dev", "dev_set"), "val"),
    **dict.fromkeys(("testing", "test_set"), "test"),
}
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
    written = name.lower().replace("-", "_").replace(" ", "_")
    return SPELLINGS.get(written, name.lower())


def split_images(root: Path, images: Sequence[Listed], args: argparse.Namespace) -> Splits:
    """Make the splits of listed images, and check that they fit together.

    Without a test set the validation set is one; without that too a share of the images, by `--subset-seed`. Data whose
    test set alone is wanted may lack training images, and some of the classes.

    Args:
        root: the folder of the images.
        images: all of them; either each or none names its part.
        args: names and subset_seed are read, and test_alone if it is there: no other split is wanted.

    Raises:
        UserError: one class to train on, a class that has no training image where others have, names that do not fit,
            or a file that links make one of two classes, parts or groups.
    """
    images = _each_file_once(root, images)
    by_part = {part: [image for image in images if image.part == part] for part in ("", *PARTS)}
    if by_part["val"] and not by_part["test"]:
        log.info("val is the test set: there is no other")
        by_part["test"], by_part["val"] = by_part["val"], []
    training = [] if getattr(args, "test_alone", False) else by_part["train"] or by_part[""]
    classes = _classes_of(root, images, training, args.names)
    numbers = _group_numbers(images)
    data = {part: _dataset(root, found, classes, numbers) for part, found in by_part.items()}
    if by_part["test"]:
        return Splits(data["train"], data["val"] if by_part["val"] else None, data["test"])
    whole = data["train"] if by_part["train"] else data[""]
    return _with_drawn_test(root, whole, args.subset_seed, alone=not training)


def _classes_of(root: Path, images: Sequence[Listed], training: Sequence[Listed], names: str | None) -> dict[str, str]:
    """Name the classes, label -> name, in their order: those of the training images, if any are wanted.

    Args:
        names: file of their names, if there is one.
    """
    labels = sorted({image.label for image in training or images}, key=_by_number_or_name)
    classes = {label: label for label in labels}
    if names:
        classes = read_class_names(names, labels, may_name_others=not training)
    if others := [image for image in images if image.label not in classes]:
        label, where = others[0].label, others[0].part
        paths = [image.path for image in others if image.label == label]
        same = [other for other in labels if _folded(other) == _folded(label)]
        alike = "".join(f", train has {other!r}{in_another_form([label], [other])}" for other in same)
        raise UserError(
            f"{root}: label {label!r} occurs in {where} only, {count_of(paths, 'image')}{alike}: put training images "
            "of it there too, or leave it out"
        )
    if training and len(labels) < 2:
        raise UserError(f"{root} has one class, {labels[0]!r}: two at least are needed")
    folded = Counter(map(_folded, labels))
    if alike := [label for label in labels if folded[_folded(label)] > 1]:
        form = in_another_form(alike, alike)
        log.warning("classes whose names differ in case only: %s%s; is one of them misspelt?", ", ".join(alike), form)
    return classes


def _with_drawn_test(root: Path, whole: FileDataset, seed: int, alone: bool) -> Splits:
    """Hold a share of the images out as the test set.

    Args:
        alone: nothing else is wanted; a warning says so.
    """
    kept, held = hold_out(whole.targets, len(whole.classes), TEST_SHARE, seed, whole.groups)
    if not len(held):
        raise UserError(
            f"{root} names no test set, and {TEST_SHARE:.0%} of its {len(whole)} images cannot be drawn as one: that "
            "would take the only image of a class, or part a group; add images, or name a test set"
        )
    text = "no test set: %d of %d images, drawn by --subset-seed, are held out as one"
    if alone:
        text += ", and measured alone; to measure all, put them into test/CLASS/, or give the table a column split"
        log.warning(text, len(held), len(whole))
    else:
        log.info(text, len(held), len(whole))
    return Splits(whole.subset(kept), None, whole.subset(held))


def _each_file_once(root: Path, images: Sequence[Listed]) -> list[Listed]:
    """Leave out images that are the file of another one by links, with a warning: a draw would part them.

    Raises:
        UserError: two names of a file have two classes, parts or groups.
    """
    places = real_places(root, [image.path for image in images])
    kept: dict[str, Listed] = {}
    twice = []
    for image in images:
        first = kept.setdefault(places[image.path], image)
        if image[1:] != first[1:]:
            raise UserError(
                f"{root}: {image.path} and {first.path} are one file (a link): an image has one class, one part and "
                "one group"
            )
        if image is not first:
            twice.append((image.path, first.path))
    if twice:
        text = "%s has %d images twice, by links (%s and %s are one file): each is used once"
        log.warning(text, root, len(twice), *twice[0])
    return list(kept.values())


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
    paths = np.array([image.path for image in images], dtype=str)
    groups = None
    if any(image.group for image in images):
        groups = np.array([group_numbers[_group(image)] for image in images])
    return FileDataset(root, paths, tuple(classes.values()), targets, paths, groups=groups, colour=True)


def read_class_names(path: str, labels: Sequence[str], may_name_others: bool = False) -> dict[str, str]:
    """Read the names of classes: on each line a label and, after a tab, blank or comma, its name.

    Args:
        path: of the file.
        labels: of the data.
        may_name_others: the file may have more labels than the data; their lines are left out. The labels may also be
            names of such a file.

    Returns:
        Label -> name, in the order of the lines.

    Raises:
        UserError: the file cannot be read, or does not name each of these labels once, and no other.
    """
    known = set(labels)
    names: dict[str, str] = {}
    others: set[str] = set()
    for line in read_names(Path(path), "name the file with --names"):
        label, name = _label_and_name(line, known)
        if may_name_others and label not in known:
            others.add(name)
            continue
        if label in names:
            raise UserError(f"--names {path} names {label!r} twice: keep one line of it")
        names[label] = name
    if not names and known <= others:  # new images, sorted by the classes that predict.py names
        return {label: label for label in labels}
    lacking, unknown = sorted(known - names.keys()), sorted(names.keys() - known)
    if lacking or unknown:
        wrong = [f"lacks {count_of(lacking, 'label')} of the data"] if lacking else []
        wrong += [f"names {count_of(unknown, 'label')} that the data has not"] if unknown else []
        form = in_another_form(lacking, unknown)
        raise UserError(f"--names {path} {' and '.join(wrong)}{form}: correct it")
    if twice := repeated(names.values()):
        raise UserError(f"--names {path} gives two labels the name {twice[0]!r}: give each its own")
    return names


def _label_and_name(line: str, known: Collection[str]) -> tuple[str, str]:
    """Cut a line after the longest label of the data that it begins with; where that is none, after its first word.

    A line with a tab is cut there: it may begin with a label that these data have and be of another one.
    """
    if line in known:
        return line, line
    signs = "\t" if "\t" in line else " ,"
    cuts = [at for at, sign in enumerate(line) if sign in signs] or [len(line)]
    cut = next((at for at in reversed(cuts) if line[:at] in known), cuts[0])
    return line[:cut], line[cut + 1 :].strip() or line[:cut]


def _folded(label: str) -> str:
    """Give what a label has in common with those that differ from it in case, or in how an accent is stored."""
    return unicodedata.normalize("NFKC", label).casefold()


def _by_number_or_name(label: str) -> tuple[bool, int, str, str]:
    """Sort labels: whole numbers by their value before all others by their name."""
    number = label.isascii() and label.isdecimal()
    digits = label.lstrip("0") if number else ""  # Python reads numbers of 4,300 digits at most
    return (not number, len(digits), digits, label)
