"""A cache of images on disk: its files, how they are read, and how they are built.

All processes and runs share it. A build that is killed is continued, and a finished cache is read without a lock.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images.source import ArraySource, ImageSource, whole
from utils.device import usable_cores
from utils.errors import UserError
from utils.files import write_atomically
from utils.preprocessing import RESIZES

FORMAT = 3  # of the files of a cache; another one is another cache
UNSEEN, GOOD, BAD = range(3)  # what an image is: not looked at yet, in the cache, not to be read
RECORD = np.dtype([("state", "u1"), ("checksum", "<u4")])
CHUNK = 16  # images that a thread takes at once


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

    def forget(self, row: int) -> bool:
        """Let the next call of `prepare_images` look at the image of a row again; False if that cannot be written."""
        try:
            np.load(self.records, mmap_mode="r+")[row] = UNSEEN, 0
        except (OSError, ValueError):
            return False
        return True

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
        if record["state"] != GOOD:
            return False
        return not self.size or zlib.crc32(os.pread(file, self.bytes, row * self.bytes)) == record["checksum"]

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
