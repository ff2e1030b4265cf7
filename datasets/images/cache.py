"""A list's images, resized once, in one array on disk that every process and every run shares."""

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.images.source import ArraySource, GreySource, whole
from utils.errors import UserError
from utils.files import write_atomically

FORMAT = 1  # of the files below; another one is another cache
UNSEEN, GOOD, BAD = range(3)  # what an image is: not looked at yet, in the cache, not to be read
RECORD = np.dtype([("state", "u1"), ("checksum", "<u4")])
CHUNK = 16  # images a thread takes at once


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize as the evaluation transform does: uint8 (h,w) -> (size, size)."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


class ImageCache:
    """Images of a list at size x size in `pixels.u8` (N,size,size), and a record of each in `records.npy` (N,).

    An image is in the cache once its record says so, which is written after its pixels; so a build that is killed is
    continued, and a finished one has no record left to do. The checksum of an image is compared at each read.
    Nothing is opened before the first read, and an object that is sent to another process takes no pixel along.

    Args:
        parent: the folder of all caches of a data set.
        names: of the images, in order; other names, another size or another format are another cache.
        size: pixels of a side; 0 keeps the records alone, of images that could be decoded.
    """

    def __init__(self, parent: Path, names: Sequence[str], size: int) -> None:
        key = hashlib.sha256(f"{FORMAT} {size}\n".encode() + "\n".join(names).encode()).hexdigest()[:16]
        self.folder = parent / (f"{size}x{size}-{key}" if size else f"read-{key}")
        self.count, self.size = len(names), size
        self._opened: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def source(self, row: int, name: str) -> ArraySource:
        """The image of a row, in place.

        Raises:
            UserError: the cache is damaged.
        """
        if self._opened is None:
            pixels = np.memmap(self._pixels, np.uint8, "r", shape=(self.count, self.size, self.size))
            self._opened = np.asarray(pixels), np.load(self._records)["checksum"]
        pixels, checksums = self._opened
        if zlib.crc32(pixels[row]) != checksums[row]:
            raise UserError(f"{self.folder} is damaged (image {name}): delete that folder, and it is built again")
        return ArraySource(pixels[row])

    def states(self) -> np.ndarray:
        """What each image is, (N,) of UNSEEN, GOOD, BAD."""
        try:
            records = np.load(self._records)
            whole = records.shape == (self.count,) and records.dtype == RECORD and self._allocated() is not None
        except (OSError, ValueError, EOFError):
            whole = False
        return records["state"] if whole else np.full(self.count, UNSEEN, dtype=np.uint8)

    def lacking(self) -> int:
        """Bytes of disk that the build has yet to take."""
        return max(self.count * self.size**2 - (self._allocated() or 0), 0)

    def build(self, open_source: Callable[[int], GreySource], advance: Callable[[int], object]) -> None:
        """Make every image that is not in the cache yet, and check those that are, in as many threads as cores.

        Threads are enough: reading, inflating and resizing leave the interpreter to the others. They end with this
        process, whatever ends it, and after an exception each ends the image it is at.

        Args:
            open_source: opens the image of a row; a `UserError` of it makes the image a bad one.
            advance: is told after some images how many they were.

        Raises:
            UserError: the cache cannot be written.
        """
        try:
            self._create()
            with self._pixels.open("r+b", buffering=0) as file:
                self._make_all(file.fileno(), open_source, advance)
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): free some space there") from error

    def _make_all(self, file: int, open_source: Callable[[int], GreySource], advance: Callable[[int], object]) -> None:
        records = np.load(self._records, mmap_mode="r+")

        def make(rows: range) -> int:
            for row in rows:
                if not (records["state"][row] == GOOD and self._holds(file, row, int(records["checksum"][row]))):
                    records[row] = self._make(file, row, open_source)
            return len(rows)

        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            chunks = (range(start, min(start + CHUNK, self.count)) for start in range(0, self.count, CHUNK))
            for made in pool.map(make, chunks):
                advance(made)
        finally:
            pool.shutdown(cancel_futures=True)
        records.flush()

    def _make(self, file: int, row: int, open_source: Callable[[int], GreySource]) -> tuple[int, int]:
        """Read, resize and store an image; its record."""
        try:
            pixels = whole(open_source(row))
        except UserError:
            return BAD, 0
        if not self.size:
            return GOOD, 0
        content = memoryview(resize(pixels, self.size).tobytes())
        written = 0
        while written < len(content):
            written += os.pwrite(file, content[written:], row * self.size**2 + written)
        return GOOD, zlib.crc32(content)

    def _holds(self, file: int, row: int, checksum: int) -> bool:
        """Whether the pixels of a row are those that were written; without pixels there is nothing to compare."""
        return not self.size or zlib.crc32(os.pread(file, self.size**2, row * self.size**2)) == checksum

    def _create(self) -> None:
        """Both files at their full size, unless they are there."""
        if self.states().any():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._pixels.open("wb") as file:
            file.truncate(self.count * self.size**2)
        empty = io.BytesIO()
        np.save(empty, np.zeros(self.count, dtype=RECORD))
        write_atomically(self._records, lambda file: file.write(empty.getvalue()))

    def _allocated(self) -> int | None:
        """Bytes of disk that the pixels take by now; None if there is no file of their size."""
        try:
            found = self._pixels.stat()
        except OSError:
            return None
        return found.st_blocks * 512 if found.st_size == self.count * self.size**2 else None

    @property
    def _pixels(self) -> Path:
        return self.folder / "pixels.u8"

    @property
    def _records(self) -> Path:
        return self.folder / "records.npy"
