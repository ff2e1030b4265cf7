"""CSV: one's own images, with a table that names them."""

import argparse
import contextlib
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets.base import DatasetSpec, Splits
from datasets.images.files import images_root, missing_files
from datasets.own.splitting import PARTS, Listed, part_of, split_images
from datasets.tables import PATH_COLUMNS, column_numbers, count_of, has_more_cells, read_table, repeated, require_column
from utils.errors import UserError

log = logging.getLogger("dgcmm")

OTHER_COLUMNS = LABEL_COLUMN, SPLIT_COLUMN, GROUP_COLUMN = "label", "split", "group"
SEVERAL = "|;,"  # what programs put between the labels of an image that has several
MISSING = ("nan", "na", "n/a", "#n/a", "null", "none")  # pandas, R, spreadsheets, databases, Python


def load_table(args: argparse.Namespace) -> Splits:
    """Load the rows of `--csv`, whose paths are relative to `--datadir`."""
    root = images_root(args.datadir)
    table = Path(args.csv) if os.path.isfile(args.csv) else root / args.csv
    header, rows = read_table(table, "name the table with --csv")
    columns = column_numbers(header)
    path_column = require_column(header, PATH_COLUMNS, table)
    require_column(header, (LABEL_COLUMN,), table)
    twice = repeated(name.strip().lower() for name in header)
    if known := [name for name in twice if name in (path_column, *OTHER_COLUMNS)]:
        raise UserError(f"{table} has two columns {known[0]}: rename one of them")
    images, lacking = [], []
    for number, row in rows:
        if has_more_cells(header, row):
            raise UserError(
                f"{table}, row {number}: it has more cells than the header: quote what has a comma in it; an image has "
                "one label"
            )
        cells = {name: row[at].strip() if at < len(row) else "" for name, at in columns.items()}
        if torn := next((name for name in (path_column, *OTHER_COLUMNS) if "\n" in cells.get(name, "")), None):
            raise UserError(f'{table}, row {number}: its {torn} goes over several lines: is a quote (") not closed?')
        if not cells[path_column] or not cells[LABEL_COLUMN]:
            lacking.append(f"row {number}")
            continue
        part = part_of(cells.get(SPLIT_COLUMN, ""))
        if part not in PARTS and (part or SPLIT_COLUMN in columns):
            known = ", ".join(PARTS)
            raise UserError(f"{table}, row {number}: split {cells[SPLIT_COLUMN]!r} is none of {known}: correct it")
        path = _within(root, cells[path_column], f"{table}, row {number}")
        images.append(Listed(path, cells[LABEL_COLUMN], part, cells.get(GROUP_COLUMN, "")))
    if lacking:
        log.warning("%s: left out %s without a path or a label", table, count_of(lacking, "row"))
    if not images:
        raise UserError(f"{table} names no image: give it a row for each, with a path and a label")
    if getattr(args, "test_alone", False):  # the images of other rows need not be there
        measured = next((part for part in ("test", "val") if any(image.part == part for image in images)), None)
        images = [image for image in images if measured in (None, image.part)]
    images = _each_once(images, table)
    _warn_of_doubtful_labels(Counter(image.label for image in images), table)
    for group, count in Counter(image.group for image in images).items():
        if group.lower() in MISSING and count > 1:
            text = "%s: group %r is one of %d images: if it stands for a missing group, leave the cell empty"
            log.warning(text, table, group, count)
    if missing := missing_files(root, [image.path for image in images]):
        what = count_of(missing, "image")
        raise UserError(f"{table}: {what} of {len(images)} listed not found in {root}: {_remedy(root, missing[0])}")
    return split_images(root, sorted(images), args)  # a table that was sorted anew has the same splits


def _remedy(root: Path, missing: str) -> str:
    """Say what may help where no file is at a path of the table."""
    if "\\" in missing:
        return "write / for \\ in the paths"
    if os.path.isdir(root / missing):
        return f"{missing} is a folder"
    forms = {unicodedata.normalize(form, missing) for form in ("NFC", "NFD")} - {missing}
    if any(os.path.isfile(root / form) for form in forms):
        return "the files' names store accents in another form (Unicode NFC, NFD): write the table from those names"
    return "check --datadir and the paths"


def _warn_of_doubtful_labels(counts: Counter[str], table: Path) -> None:
    """Warn of labels that programs write for a missing one, of several in one, and of numbers written in two ways.

    Args:
        counts: images of each label.
    """
    for label, count in counts.items():
        if label.lower() in MISSING:
            text = "%s: label %r is a class of %d images: if it stands for a missing label, leave the cell empty"
            log.warning(text, table, label, count)
    known = set(counts)
    for sign in SEVERAL:
        if joined := [label for label in counts if sign in label and {*map(str.strip, label.split(sign))} <= known]:
            text = "%s: %s: other labels joined by %r? An image has one label, and each of these is a class of its own"
            log.warning(text, table, count_of(joined, "label"), sign)
    written: dict[float, str] = {}
    for label in counts:
        with contextlib.suppress(ValueError):
            if (first := written.setdefault(float(label), label)) != label:
                log.warning("%s: labels %r and %r are one number and two classes: write it alike", table, first, label)


def _within(root: Path, path: str, where: str) -> str:
    """Turn a path of a table into one within `root`; links are not followed, they may lead anywhere."""
    inside = os.path.relpath(os.path.join(os.path.abspath(root), path), os.path.abspath(root)).replace(os.sep, "/")
    if inside == ".." or inside.startswith("../"):
        raise UserError(f"{where}: {path} lies outside of --datadir {root}: name the folder that holds all images")
    return inside


def _each_once(images: Sequence[Listed], table: Path) -> list[Listed]:
    """Leave out rows that repeat another one, with a warning.

    Raises:
        UserError: two rows of one image contradict each other.
    """
    kept: dict[str, Listed] = {}
    for image in images:
        first = kept.setdefault(image.path, image)
        for what, one, other in zip(("labels", "splits", "groups"), first[1:], image[1:], strict=True):
            if one != other:
                raise UserError(f"{table} gives {image.path} two {what}, {one!r} and {other!r}: keep one row of it")
    if len(kept) < len(images):
        twice = repeated(image.path for image in images)
        log.warning("%s: %s named more than once, and used once", table, count_of(twice, "image"))
    return list(kept.values())


CSV = DatasetSpec(
    load=load_table,
    resize="centre",
    train_transform="resized-crop",
    in_files=True,
    colour=True,
    takes_names=True,
    table=True,
)
