"""Images without labels: found by what a user names, and read one by one, a bad one with what is wrong with it."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.images.finder import KINDS, find_files, is_image_name, shown_endings
from datasets.images.opening import open_image
from datasets.images.source import whole
from datasets.tables import PATH_COLUMNS, column_numbers, has_more_cells, read_names, read_table, require_column
from utils.errors import UserError
from utils.preprocessing import Preprocessing

log = logging.getLogger("dgcmm")

LISTS, TABLES = (".txt",), (".csv", ".tsv")
REMEDY = "name an image (JPEG, PNG, BMP, TIFF, WebP), a folder of images, a .txt list or a .csv table"


class Named(NamedTuple):
    """An image that a user names: its name as it stands there, and its file."""

    name: str
    path: str


def find_named(sources: Sequence[str]) -> list[Named]:
    """Find the images that sources name, in their order; the files of a list or a table need not be there.

    Args:
        sources: images; folders, of which all images are taken, those in sub-folders too, by sorted names; .txt lists
            with a path on each line; tables (.csv, .tsv) with a column of `PATH_COLUMNS`. Paths in lists and tables are
            those from the list's own folder or, where there is no such file, from the current one.

    Raises:
        UserError: a source is not there or none of these, or names no image.
    """
    images: list[Named] = []
    for source in sources:
        found = _of_source(source)
        if not found:
            raise UserError(f"{source} names no image: {REMEDY}")
        images += found
    if strange := [image.name for image in images if any("\ud800" <= sign <= "\udfff" for sign in image.name)]:
        text = "the names of %d images are not UTF-8, the first %a, nor is the table that has them: rename them"
        log.warning(text, len(strange), strange[0])
    return images


def _of_source(source: str) -> list[Named]:
    if os.path.isdir(source):
        files = find_files(Path(source))
        if files.others and not files.images:
            raise UserError(f"{source} has {len(files.others)} files, but none is an image: {REMEDY}")
        if files.others:
            left_out = shown_endings(files.others)
            log.warning("%s: left out %d files that are no images: %s (%s)", source, len(files.others), left_out, KINDS)
        return [Named(path, path) for path in (os.path.join(source, name) for name in files.images)]
    if not os.path.isfile(source):
        raise UserError(f"there is no {source}: {REMEDY}")
    ending = os.path.splitext(source)[1].lower()
    if ending in LISTS:
        return [_listed(name, source) for name in read_names(Path(source), REMEDY)]
    if ending in TABLES:
        return [_listed(name, source) for name in _path_column(source)]
    if not is_image_name(source):
        raise UserError(f"{source} is no image by the ending of its name: {REMEDY}")
    return [Named(source, source)]


def _path_column(table: str) -> list[str]:
    header, rows = read_table(Path(table), REMEDY)
    name = require_column(header, PATH_COLUMNS, Path(table))
    at = column_numbers(header)[name]
    if long := [number for number, row in rows if has_more_cells(header, row)]:
        raise UserError(
            f"{table}, row {long[0]}: more cells than the header has: quote a name with a comma or semicolon"
        )
    if empty := [number for number, row in rows if at >= len(row) or not row[at].strip()]:
        raise UserError(f"{table}, row {empty[0]}: the column {name} is empty: fill it in, or delete the row")
    if torn := [number for number, row in rows if "\n" in row[at].strip()]:
        raise UserError(f'{table}, row {torn[0]}: the column {name} has several lines: is a quote (") not closed?')
    return [row[at].strip() for _, row in rows]


def _listed(name: str, source: str) -> Named:
    beside = os.path.join(os.path.dirname(source), name)
    return Named(name, beside if os.path.exists(beside) or not os.path.exists(name) else name)


class UnlabelledImages(Dataset):
    """Images as a model of the given preprocessing takes them.

    Args:
        paths: of the files, (N,).
        preprocessing: of the model's checkpoint.
    """

    def __init__(self, paths: Sequence[str], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = list(paths), preprocessing
        self.transform = preprocessing.evaluation_transform()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """Give an image, uint8 (1 or 3,S,S), and '', or black and why it cannot be read."""
        colour, size = self.preprocessing.colour, self.preprocessing.crop_size
        try:
            source = open_image(Path(self.paths[index]), colour)
            return self.transform(Image.fromarray(whole(source))), ""
        except UserError as error:
            return torch.zeros(3 if colour else 1, size, size, dtype=torch.uint8), str(error)
