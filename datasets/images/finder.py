"""Image files below a folder: found in any layout, and those that a list names found among them.

No file is opened, and but for links none is looked at: 100,000 names on a network take seconds, not minutes.
"""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
KINDS = "JPEG, PNG, BMP, TIFF and WebP are read"
# what systems leave on a disk: copies of attributes, thumbnails, what was deleted
NOT_OURS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")


def find_images(root: Path) -> list[str]:
    """List the image files below a folder as paths within it, in the same order on every machine.

    Links are followed, a folder is listed once. Names with a dot in front are left out, the `._NAME.png` of macOS among
    them, and so are the folders `NOT_OURS`. The files of a folder come before those of its folders, by their names.

    Raises:
        UserError: a folder cannot be listed.
    """
    return find_files(root).images


def has_image(root: Path) -> bool:
    """Tell whether `find_images` would find any; looks no further than the first folder with one.

    Raises:
        UserError: a folder cannot be listed.
    """
    return any(files.images for files in _scan(root, "", set()))


class Files(NamedTuple):
    """The files below a folder, as paths within it: images, and those whose names are no images'.

    Attributes:
        dead_links: those of both kinds that are links and lead nowhere, as to a disk that is not mounted.
    """

    images: list[str]
    others: list[str]
    dead_links: list[str]

    def reachable(self) -> list[str]:
        """List the images without those that are dead links."""
        dead = set(self.dead_links)
        return [path for path in self.images if path not in dead]


def find_files(root: Path) -> Files:
    """List the images below a folder as `find_images` does, and by the same rules what else lies there.

    Raises:
        UserError: a folder cannot be listed.
    """
    found = Files([], [], [])
    for files in _scan(root, "", set()):
        for paths, here in zip(found, files, strict=True):
            paths.extend(here)
    return found


def _scan(root: Path, folder: str, seen: set[tuple[int, int]]) -> Iterator[Files]:
    """Give the files of each folder, as 'images_001/NAME' within `root`, parents first."""
    images, others, dead, inside = [], [], [], []
    with listed(root / folder) as entries:
        status = os.stat(root / folder)
        if (status.st_dev, status.st_ino) in seen:  # a link led back here
            return
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NOT_OURS:
                continue
            if is_folder(entry):
                inside.append(entry.name)
                continue
            (images if is_image_name(entry.name) else others).append(entry.name)
            if leads_nowhere(entry):
                dead.append(entry.name)
    yield Files(*([folder + name for name in sorted(names)] for names in (images, others, dead)))
    for name in sorted(inside):
        yield from _scan(root, f"{folder}{name}/", seen)


def by_folder(paths: Iterable[str]) -> Iterator[tuple[str, Iterator[str]]]:
    """Group paths by their folders, each of which comes once, also where it has files and folders."""
    ordered = sorted(paths, key=lambda path: path.rpartition("/"))
    return itertools.groupby(ordered, key=lambda path: path.rpartition("/")[0])


def real_places(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Follow links: path within `root` -> where the file really is. Each folder is listed once, no file is looked at.

    Raises:
        UserError: a folder cannot be listed.
    """
    places = {}
    for folder, inside in by_folder(paths):
        with listed(root / folder) as entries:
            links = {entry.name for entry in entries if entry.is_symlink()}
        real = os.path.realpath(root / folder)
        for path in inside:
            place = os.path.join(real, _name(path))
            places[path] = os.path.realpath(place) if _name(path) in links else place
    return places


@contextlib.contextmanager
def listed(folder: Path) -> Iterator[Iterator[os.DirEntry]]:
    """Give the entries of a folder, in any order; raises a `UserError` if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable, or name another") from error


def is_folder(entry: os.DirEntry) -> bool:
    """Tell whether an entry is a folder or leads to one; a link that leads round in a circle does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def leads_nowhere(entry: os.DirEntry) -> bool:
    """Tell whether an entry is a link to what is not there or may not be reached."""
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError:
        return True
    return False


def require_live(path: Path) -> None:
    """Raise a `UserError` if a path is a link that leads nowhere, as to a disk that is not mounted."""
    if os.path.islink(path) and not os.path.exists(path):
        raise dead_link(path)


def dead_link(path: Path) -> UserError:
    """Say that a link leads nowhere, and where it should."""
    return UserError(f"{path} is a link to {os.readlink(path)}, which cannot be reached: mend or delete it")


def shown_endings(paths: Iterable[str]) -> str:
    """Say how files end, the most frequent first: '4 .heic, 1 .gif'; one without an ending by its name."""
    endings = Counter(os.path.splitext(path)[1].lower() or os.path.basename(path) for path in paths)
    kinds = sorted(endings.items(), key=lambda kind: (-kind[1], kind[0]))
    return ", ".join(f"{count} {ending}" for ending, count in kinds[:3]) + (", ..." if len(kinds) > 3 else "")


def is_image_name(name: str) -> bool:
    """Tell whether a file is an image by the ending of its name, in any case."""
    return name.lower().endswith(SUFFIXES)


class Located(NamedTuple):
    """Where the images that a list names are.

    Attributes:
        paths: path of each that is there, by the name in the list.
        twice: (path that counts, another one) of those that are there twice.
        converted: paths of those in another format than the list says, 'a.jpg' for 'a.png'.
    """

    paths: dict[str, str]
    twice: list[tuple[str, str]]
    converted: list[str]


def locate(names: Iterable[str], files: Iterable[str]) -> Located:
    """Find the images that a list names without their folders.

    A file of that very name counts first, then one whose ending is written in another case, then one of another
    format; among equals one that lies in no folder or in one whose name begins with 'image', then the first.

    Args:
        names: as the list has them.
        files: paths, as `find_images` gives them.
    """
    by_stem: dict[str, list[str]] = {}
    for path in files:
        by_stem.setdefault(_stem(_name(path)), []).append(path)
    located = Located({}, [], [])
    for name in names:
        candidates = by_stem.get(_stem(name))
        if not candidates or name in located.paths:
            continue
        kinds = [_difference(name, _name(path)) for path in candidates]
        equals = [path for path, kind in zip(candidates, kinds, strict=True) if kind == min(kinds)]
        equals.sort(key=lambda path: "/" in path and not path.lower().startswith("image"))
        located.paths[name] = equals[0]
        if len(equals) > 1:
            located.twice.append((equals[0], equals[1]))
        if min(kinds) == _FORMAT:
            located.converted.append(equals[0])
    return located


_FORMAT = 2


def _difference(name: str, other: str) -> int:
    """Say in what two names of one stem differ: 0 nothing, 1 the case of the ending, 2 the format."""
    return 0 if name == other else 1 if name.lower() == other.lower() else _FORMAT


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
