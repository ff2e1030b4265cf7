"""Data sets whose images lie in files: where each one lies, and how it is read."""

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.base import ImageDataset
from datasets.images.cache import ImageCache
from datasets.images.png import GreyPng
from datasets.images.source import GreySource, whole
from datasets.transforms import RandomCropAndFlip
from utils.errors import UserError

IMAGE_FOLDER = "images"  # how the name of a folder with images begins, at every level
DEPTH = 3  # levels of such folders: images/images_001/images
SUFFIX = ".png"


def require_reachable(folder: Path) -> None:
    """Raise a `UserError` if a folder of data is there, or may be, and cannot be looked into."""
    try:
        os.scandir(folder).close()
        os.stat(os.path.join(folder, "."))
    except (FileNotFoundError, NotADirectoryError):
        return  # who needs it says what is lacking
    except OSError as error:
        raise UserError(f"--datadir {folder} cannot be read ({error.strerror}): see its permissions") from error


class FileDataset(ImageDataset):
    """Grey PNGs, each decoded when it is read, or read from a cache of resized ones.

    Args:
        root: the data set's folder.
        files: where the images lie, (N,).
        the others: as in `ImageDataset`; the ids are the names of the files.
    """

    def __init__(self, root: Path, files: "Locations", *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.root, self.files = root, files
        self.names = self.ids  # of the rows of the source; `ids` are those of a subset
        self.cache: ImageCache | None = None

    def path(self, row: int) -> Path:
        """The file of a row of the source."""
        return self.files.path(row, str(self.names[row]))

    def source(self, row: int) -> GreySource:
        """The image of a row, from the cache if there is one.

        Raises:
            UserError: it cannot be read; the message names it.
        """
        return self.cache.source(row, str(self.names[row])) if self.cache else GreyPng(self.path(row))

    def read(self, row: int) -> Image.Image:
        """The image of a row as 8-bit grey."""
        return Image.fromarray(whole(self.source(row)))

    def transformed(self, row: int) -> Any:
        """Read and transform the image of a row; of a random crop, no more is decoded than it needs."""
        if isinstance(self.transform, RandomCropAndFlip):
            return self.transform.take(self.source(row))
        return super().transformed(row)

    def cached(self, cache: ImageCache) -> "FileDataset":
        """The same images, read from a cache."""
        part = copy.copy(self)
        part.cache = cache
        return part


class Locations:
    """In which folder each of many files lies: two arrays, as 100,000 paths would take tens of megabytes.

    Args:
        folders: all that hold any.
        number: index into `folders` of each file, (N,).
    """

    def __init__(self, folders: Sequence[Path], number: np.ndarray) -> None:
        self.folders, self.number = tuple(folders), number

    def path(self, row: int, name: str) -> Path:
        """Path of a file."""
        return self.folders[self.number[row]] / name


def locate(root: Path, names: Sequence[str]) -> tuple[Locations, list[str]]:
    """Find files by name, whatever the layout: in `root`, and in folders within it whose names begin with 'images'.

    One scan without a look at any file. The first of two files of a name is taken, in the order of their folders.

    Returns:
        Where the files lie, and the names that are nowhere (their number in `Locations` is -1).

    Raises:
        UserError: a folder cannot be listed.
    """
    folders: list[Path] = []
    where = dict.fromkeys(names, -1)
    for folder, found in _scan(root, DEPTH):
        new = [name for name in found if where.get(name, 0) == -1]
        where.update(dict.fromkeys(new, len(folders)))
        if new:
            folders.append(folder)
    number = np.fromiter(where.values(), dtype=np.int16, count=len(where))
    if len(where) < len(names):  # a name twice in the list
        number = np.array([where[name] for name in names], dtype=np.int16)
    return Locations(folders, number), [name for name, place in where.items() if place == -1]


def image_paths(root: Path) -> dict[str, Path]:
    """Image name -> where it lies, of all images in a folder, in any layout; see `locate`."""
    found: dict[str, Path] = {}
    for folder, names in _scan(root, DEPTH):
        for name in names:
            found.setdefault(name, folder / name)
    return found


def _scan(folder: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the images in it, parents first."""
    images, inside = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    images.append(entry.name)
                elif depth and entry.name.startswith(IMAGE_FOLDER) and entry.is_dir():
                    inside.append(entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable, or name another") from error
    yield folder, images
    for name in sorted(inside):
        yield from _scan(folder / name, depth - 1)
