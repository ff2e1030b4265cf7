"""Data sets whose images lie in files, and how each one is read."""

import copy
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from datasets.base import ImageDataset
from datasets.images.cache import ImageCache
from datasets.images.finder import by_folder, is_folder, leads_nowhere, require_live
from datasets.images.opening import open_image
from datasets.images.source import ImageSource, whole
from datasets.transforms import RandomCropAndFlip
from utils.errors import UserError
from utils.files import NOT_THERE


def require_reachable(folder: Path) -> None:
    """Raise a `UserError` if a folder of data is there, or may be, and cannot be looked into."""
    require_live(folder)
    try:
        os.scandir(folder).close()
        os.stat(os.path.join(folder, "."))
    except OSError as error:
        if error.errno not in NOT_THERE:  # else who needs it says what is lacking
            raise UserError(f"--datadir {folder} cannot be read ({error.strerror}): see its permissions") from error


def images_root(datadir: str | Path, remedy: str = "name the folder that holds the images") -> Path:
    """Return the folder of a data set in files, or raise a `UserError`, with `remedy`, if it is not there."""
    root = Path(datadir)
    require_reachable(root)
    if not root.is_dir():
        what = "is no folder" if root.exists() else "does not exist"
        raise UserError(f"--datadir {root} {what}: {remedy}")
    return root


def possible_places(root: Path, folder: str) -> tuple[Path, Path]:
    """Give the two folders that may hold the files of a data set, `root` and one in it, which need not be there.

    Raises:
        UserError: one of them cannot be looked into.
    """
    places = (root, root / folder)
    for place in places:
        require_reachable(place)
    return places


def missing_files(root: Path, paths: Sequence[str]) -> list[str]:
    """List the paths within `root` at which no file is, sorted; each folder is listed once, quick on a network too.

    Raises:
        UserError: a path is not UTF-8, or a folder cannot be listed.
    """
    _require_utf8(root, paths)
    missing = []
    for folder, inside in by_folder(paths):
        try:
            with os.scandir(root / folder) as entries:
                there = {entry.name for entry in entries if not is_folder(entry) and not leads_nowhere(entry)}
        except OSError:
            require_reachable(root / folder)  # what is closed may hold them
            there = set()
        missing += [path for path in inside if path.rpartition("/")[2] not in there]
    return sorted(missing)


def _require_utf8(root: Path, names: Sequence[str]) -> None:
    """Raise a `UserError` if a name is in an old encoding, which neither tables nor log take, or the locale is one."""
    text = "\n".join(names)
    try:
        text.encode("utf-8" if sys.getfilesystemencoding() == "utf-8" else "ascii")
    except UnicodeEncodeError as error:
        name = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise UserError(
            f"{root}: the name {name!a}, or the locale, is not UTF-8: rename it, or set LC_ALL=C.UTF-8"
        ) from error


class FileDataset(ImageDataset):
    """Images in files, each decoded when it is read, or read from a cache of resized ones.

    Args:
        root: the data set's folder.
        files: paths of the images within it, (N,).
        colour: read as RGB; else as 8-bit grey. Of any format; grey PNGs are decoded no further than is needed.
        the others: as in `ImageDataset`; the ids are the names of the files.

    Raises:
        UserError: a name is not UTF-8.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        classes: Sequence[str],
        targets: np.ndarray,
        ids: Sequence[str],
        groups: np.ndarray | None = None,
        colour: bool = False,
    ) -> None:
        super().__init__(classes, targets, ids, groups=groups)
        _require_utf8(root, ids)
        self.root, self.colour = root, colour
        # one array: the counting of references to strings would copy their memory into each loading process
        self.files = np.asarray(files)
        self.names = self.ids  # of the rows of the source; `ids` are those of a subset
        self.cache: ImageCache | None = None
        self.forget: Callable[[int], bool] | None = None

    def path(self, row: int) -> Path:
        """Give the file of a row of the source."""
        return self.root / str(self.files[row])

    def in_file(self, row: int) -> ImageSource:
        """Open the file of a row.

        Raises:
            UserError: it cannot be read; the message names it.
        """
        return open_image(self.path(row), self.colour)

    def source(self, row: int) -> ImageSource:
        """Open the image of a row, from the cache if there is one.

        Raises:
            UserError: it cannot be read; the message names it.
        """
        return self.cache.source(row, str(self.names[row])) if self.cache else self.in_file(row)

    def read(self, row: int) -> Image.Image:
        """Read the image of a row, in mode L or RGB."""
        return Image.fromarray(whole(self.source(row)))

    def transformed(self, row: int) -> Tensor | Image.Image:
        """Read and transform the image of a row; of a random crop, no more is decoded than it needs."""
        try:
            if isinstance(self.transform, RandomCropAndFlip):
                return self.transform.take(self.source(row))
            return super().transformed(row)
        except UserError as error:
            if self.forget and not self.forget(row):
                raise UserError(
                    f"{error}; or name a --cache-dir, for what is known of the images lies where it cannot be written"
                ) from error
            raise

    def cached(self, cache: ImageCache) -> "FileDataset":
        """Read the same images from a cache."""
        part = copy.copy(self)
        part.cache = cache
        return part

    def forgetting(self, forget: Callable[[int], bool]) -> "FileDataset":
        """Read the same images, and call `forget`, see `ImageCache`, with the row of one that cannot be read."""
        part = copy.copy(self)
        part.forget = forget
        return part
