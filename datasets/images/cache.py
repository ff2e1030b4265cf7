"""Images in files before they are read: resized once into a cache on disk, and left out if nobody can read them.

A cache is shared by all processes and runs. One process builds it, others that want it wait; a build that is killed is
continued, and a finished cache is read without a lock.
"""

import contextlib
import hashlib
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images.files import FileDataset
from datasets.images.source import ArraySource, ImageSource, whole
from utils.device import usable_cores
from utils.errors import UserError
from utils.files import write_atomically, write_text
from utils.locks import folder_lock
from utils.logs import progress
from utils.preprocessing import RESIZES

log = logging.getLogger("dgcmm")

FOLDER = "cache"  # in the data set's folder
MOST_BAD = 0.01  # share of a split that may be left out
NAMED = 3  # bad images of a split in a message
FORMAT = 3  # of the files of a cache; another one is another cache
UNSEEN, GOOD, BAD = range(3)  # what an image is: not looked at yet, in the cache, not to be read
RECORD = np.dtype([("state", "u1"), ("checksum", "<u4")])
CHUNK = 16  # images that a thread takes at once


def prepare_images(
    splits: Mapping[str, FileDataset],
    cache_size: int,
    bad_images: str,
    quiet: bool = False,
    cache_dir: str | None = None,
    otherwise: Path | None = None,
    resize: str = "stretch",
) -> dict[str, FileDataset]:
    """Read the splits from a cache if one is asked for, and leave out their bad images if that is asked for.

    What was found is kept, by default in the data set's folder, so all but the first call are quick.

    Args:
        splits: by the names that messages give them; all of one folder.
        cache_size: pixels of a side of the cached images; 0 for no cache.
        bad_images: 'error', or 'skip', which without a cache decodes every image once.
        quiet: show no progress.
        cache_dir: folder that takes the caches of any data set, in place of the data set's own folder.
        otherwise: the same where the data set's own folder has no finished cache and cannot be written.
        resize: how images become square in the cache, a key of `utils.preprocessing.RESIZES`.

    Raises:
        UserError: images cannot be read (more than `MOST_BAD` of a split, with 'skip'), or there is no space.
    """
    if not cache_size and bad_images == "error":
        return dict(splits)
    folder = _place(splits, cache_size, cache_dir, otherwise, resize)
    caches = _caches(folder, splits, cache_size, resize)
    if any(_has_work(caches[split], data) for split, data in splits.items()):
        with folder_lock(folder, f"a cache of images ({cache_size or 'check'})"):
            _require_space(caches)
            for split, data in splits.items():
                if _has_work(caches[split], data):  # else another process has done it meanwhile
                    _build(caches[split], data, split, quiet)
    prepared = _without_bad(splits, caches, bad_images)
    if cache_size:
        return {split: data.cached(caches[split]) for split, data in prepared.items()}
    return {split: data.forgetting(caches[split].forget) for split, data in prepared.items()}


def _caches(folder: Path, splits: Mapping[str, FileDataset], cache_size: int, resize: str) -> dict[str, "ImageCache"]:
    return {split: ImageCache(folder, data.names, cache_size, resize, data.colour) for split, data in splits.items()}


def _place(
    splits: Mapping[str, FileDataset], cache_size: int, cache_dir: str | None, otherwise: Path | None, resize: str
) -> Path:
    """Choose the folder of the caches: that of the data set, if it is finished or can be written, or another.

    In another one the caches lie apart for each folder of images: two data sets may have the same names.
    """
    root = next(iter(splits.values())).root
    own = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    if cache_dir is not None:
        return Path(cache_dir) / own
    folder = root / FOLDER
    if os.access(folder if folder.exists() else root, os.W_OK | os.X_OK):
        return folder
    caches = _caches(folder, splits, cache_size, resize)
    if not any(_has_work(caches[split], data) for split, data in splits.items()):
        return folder
    if otherwise is None:
        raise UserError(f"{folder} cannot be written: name a folder that can, --cache-dir")
    log.warning("%s cannot be written: what is read from %s is kept in %s (--cache-dir)", folder, root, otherwise)
    return otherwise / own


def _has_work(cache: "ImageCache", data: FileDataset) -> bool:
    """Tell whether images are left to do, or a bad one has been replaced."""
    states = cache.states()
    return bool(np.any(states == UNSEEN)) or any(_readable(data, row) for row in np.flatnonzero(states == BAD))


def _readable(data: FileDataset, row: int) -> bool:
    try:
        whole(data.in_file(row))
    except UserError:
        return False
    return True


def _build(cache: "ImageCache", data: FileDataset, split: str, quiet: bool) -> None:
    what = f"cache of {split} images" if cache.size else f"check of {split} images"
    log.info("%s: %s", what, cache.folder)
    with progress(what, total=cache.count, unit="img", quiet=quiet) as bar:
        cache.build(data.in_file, bar.update)
    _list_damaged(cache, data)


def _list_damaged(cache: "ImageCache", data: FileDataset) -> None:
    """Write the names of all images of a cache that cannot be read; no file if there are none."""
    names = data.names[cache.states() == BAD]
    if len(names):
        write_text(cache.damaged, "".join(f"{name}\n" for name in names))
    else:
        cache.damaged.unlink(missing_ok=True)


def _require_space(caches: Mapping[str, "ImageCache"]) -> None:
    """Before the first byte is written, raise a `UserError` if the disk cannot take all."""
    by_folder = {cache.folder: cache for cache in caches.values()}  # splits drawn from one list share one
    cache = next(iter(caches.values()))
    needed, free = sum(cache.lacking() for cache in by_folder.values()), shutil.disk_usage(cache.folder.parent).free
    if needed > free:
        raise UserError(
            f"--cache-size {cache.size} needs {needed / 1e9:.1f} GB in {cache.folder.parent}, {free / 1e9:.1f} GB are "
            "free: free some space, give a smaller --cache-size, or name another --cache-dir"
        )


def _without_bad(
    splits: Mapping[str, FileDataset], caches: Mapping[str, "ImageCache"], bad_images: str
) -> dict[str, FileDataset]:
    """Leave out what nobody can read, or raise a `UserError` that has the bad images of all splits."""
    good = {split: caches[split].states()[data.rows] == GOOD for split, data in splits.items()}
    bad = {split: data.ids[~good[split]].tolist() for split, data in splits.items() if not good[split].all()}
    for split in bad:
        if not caches[split].damaged.exists():  # of a cache that an earlier version has made
            with contextlib.suppress(UserError):
                _list_damaged(caches[split], splits[split])
    what = {split: _said(names, split, len(splits[split]), caches[split].damaged) for split, names in bad.items()}
    root = next(iter(splits.values())).root
    if what and bad_images == "error":
        raise UserError(f"{root}: {', '.join(what.values())}: replace them, or leave them out with --bad-images=skip")
    if many := [what[split] for split, names in bad.items() if len(names) > MOST_BAD * len(splits[split])]:
        least = f"more than --bad-images=skip leaves out ({MOST_BAD:.0%})"
        raise UserError(f"{root}: {', '.join(many)}, {least}: replace them")
    for text in what.values():
        log.warning("%s, and are left out", text)
    return {split: data.subset(np.flatnonzero(good[split])) if split in bad else data for split, data in splits.items()}


def _said(names: Sequence[str], split: str, count: int, listed: Path) -> str:
    """Say how many of the `count` images of a split are bad, and name some, and the list of them if there are more."""
    some = ", ".join(names)
    if len(names) > NAMED and listed.exists():
        some = f"{', '.join(names[:NAMED])}, ...: all are in {listed}"
    return f"{len(names)} of {count} {split} images cannot be read ({some})"


class ImageCache:
    """Images of a list at size x size in `pixels.u8` (N,size,size), or (N,size,size,3), and records in `records.npy`.

    An image is in the cache once its record says so, which is written after its pixels. The checksum of an image is
    compared at each read. Nothing is opened before the first read, and an object that is sent to another process takes
    no pixel along. `damaged_images.txt` has the names of those that cannot be read, if there are any.

    Args:
        parent: the folder of all caches of a data set.
        names: of the images, in order; other names, another size or another format are another cache.
        size: pixels of a side; 0 keeps the records alone, of images that could be decoded.
        resize: how images become square, a key of `utils.preprocessing.RESIZES`.
        colour: images have three channels.
    """

    def __init__(
        self, parent: Path, names: Sequence[str], size: int, resize: str = "stretch", colour: bool = False
    ) -> None:
        kind = f" {resize}" if size and resize != "stretch" else ""
        kind += " colour" if colour else ""
        key = hashlib.sha256(f"{FORMAT} {size}{kind}\n".encode() + "\n".join(names).encode()).hexdigest()[:16]
        self.resize = resize
        self.shape = (size, size, 3) if colour else (size, size)
        self.bytes = math.prod(self.shape)  # of an image
        self.folder = parent / (f"{size}x{size}-{key}" if size else f"read-{key}")
        self.pixels, self.records = self.folder / "pixels.u8", self.folder / "records.npy"
        self.damaged = self.folder / "damaged_images.txt"
        self.count, self.size = len(names), size
        self._opened: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}

    def source(self, row: int, name: str) -> ArraySource:
        """Give the image of a row, in place.

        Raises:
            UserError: the cache is damaged, or gone.
        """
        if self._opened is None:
            try:
                pixels = np.memmap(self.pixels, np.uint8, "r", shape=(self.count, *self.shape))
                self._opened = np.asarray(pixels), np.load(self.records)["checksum"]
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"{self.folder} cannot be read ({reason}): start again, it is built anew") from error
        pixels, checksums = self._opened
        if zlib.crc32(pixels[row]) != checksums[row]:
            raise UserError(f"{self.folder} is damaged (image {name}): delete that folder, and it is built again")
        return ArraySource(pixels[row])

    def states(self) -> np.ndarray:
        """Tell what each image is, (N,) of UNSEEN, GOOD, BAD."""
        try:
            records, size = np.load(self.records), self.pixels.stat().st_size
            if (records.shape, records.dtype, size) == ((self.count,), RECORD, self.count * self.bytes):
                return records["state"]
        except (OSError, ValueError, EOFError):
            pass  # it is made anew
        return np.full(self.count, UNSEEN, dtype=np.uint8)

    def forget(self, row: int) -> None:
        """Let the next call of `prepare_images` look at the image of a row again, if the record can be written."""
        with contextlib.suppress(OSError, ValueError):
            np.load(self.records, mmap_mode="r+")[row] = UNSEEN, 0

    def lacking(self) -> int:
        """Count the bytes of disk that the build has yet to take."""
        taken = self.pixels.stat().st_blocks * 512 if self.pixels.exists() else 0
        return max(self.count * self.bytes - taken, 0)

    def build(self, open_source: Callable[[int], ImageSource], advance: Callable[[int], object]) -> None:
        """Make every image that is not in the cache yet, and check those that are, in as many threads as cores.

        Threads are enough: reading, inflating and resizing leave the interpreter to the others. They end with this
        process, whatever ends it, and after an exception each ends the images that it holds.

        Args:
            open_source: opens the image of a row; a `UserError` of it makes the image a bad one.
            advance: is told after some images how many they were.

        Raises:
            UserError: the cache cannot be written.
        """
        try:
            if not self.states().any():
                self._create()
            records = np.load(self.records, mmap_mode="r+")
            with self.pixels.open("r+b", buffering=0) as file:

                def make(rows: range) -> int:
                    for row in rows:
                        if not self._holds(file.fileno(), row, records[row]):
                            records[row] = self._make(file.fileno(), row, open_source)
                    return len(rows)

                pool = ThreadPoolExecutor(usable_cores())
                try:
                    starts = range(0, self.count, CHUNK)
                    for made in pool.map(make, (range(start, min(start + CHUNK, self.count)) for start in starts)):
                        advance(made)
                finally:
                    pool.shutdown(cancel_futures=True)
                os.fsync(file.fileno())
            records.flush()
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): free some space there") from error

    def _create(self) -> None:
        """Write both files at their full size, without an image."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.pixels.open("wb") as file:
            file.truncate(self.count * self.bytes)
        write_atomically(self.records, lambda file: np.save(file, np.zeros(self.count, dtype=RECORD)))

    def _holds(self, file: int, row: int, record: np.void) -> bool:
        """Tell whether an image is there, with the pixels that were written."""
        if record["state"] != GOOD or not self.size:
            return record["state"] == GOOD
        return zlib.crc32(os.pread(file, self.bytes, row * self.bytes)) == record["checksum"]

    def _make(self, file: int, row: int, open_source: Callable[[int], ImageSource]) -> tuple[int, int]:
        """Read, resize and store an image, and give its record."""
        try:
            pixels = whole(open_source(row))
        except UserError:
            return BAD, 0
        if not self.size:
            return GOOD, 0
        content = memoryview(RESIZES[self.resize](self.size)(Image.fromarray(pixels)).tobytes())
        written = 0
        while written < len(content):  # a disk that is nearly full takes a part, and then says so
            written += os.pwrite(file, content[written:], row * self.bytes + written)
        return GOOD, zlib.crc32(content)
