"""PNG files as 8-bit grey: read at once, verified, and decoded no further than is needed."""

import contextlib
import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from utils.errors import UserError
from utils.preprocessing import to_grey

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# IHDR from its name on: name, width, height, depth, colour type, compression, filter, interlace; its checksum follows
HEADER = slice(12, 29)
WIDTH, HEIGHT, KIND, DEPTH, INTERLACE = slice(16, 20), slice(20, 24), slice(24, 29), 24, 28
STORED_BLOCK = 0xFFFF  # bytes, the most that deflate has in one
# the fourth of AVIF and DDS, the fifth of TIFF
READING_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, isal_zlib.error)
PLAIN_GREY = bytes([8, 0, 0, 0, 0])  # the KIND of most X-rays: 8 bits, one channel, not interlaced
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # of Pillow, 1 MB: some programs write more notes
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of 90 million pixels; it refuses twice as many


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise what goes wrong in the block as a `UserError` that names the image file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} cannot be read ({str(error).partition(',')[0]}): scale it down") from error
    except READING_ERRORS as error:
        foreign = isinstance(error, UnidentifiedImageError)  # whose own words hold an address in memory
        reason = "it is no image of a known format" if foreign else getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): replace it") from error


class GreyPng:
    """A PNG file as a source of grey pixels.

    Its pixels become grey by the rules of `to_grey`. The checksums of the whole file are verified first: decoding alone
    makes noise of some damaged files without a word.

    Args:
        path: the file, for messages.
        content: of the file.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._content = path, content
        with reading(path):
            self._data = verified_data(memoryview(content))
        self.width, self.height = (int.from_bytes(self._content[part], "big") for part in (WIDTH, HEIGHT))

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Decode a part of the image, uint8 (height, width); only interlaced and 16-bit files are decoded below it.

        Raises:
            UserError: the file is damaged.
        """
        with reading(self.path):
            if self._content[DEPTH] == 16:  # all values together tell how many of the bits are used
                with self._upper(self.height) as image:
                    return to_grey(image)[top : top + height, left : left + width]
            with self._upper(top + height) as image:
                return to_grey(image.crop((left, top, left + width, top + height)))

    def _upper(self, rows: int) -> Image.Image:
        """Decode the image with at least so many rows of it.

        Most of the time goes into inflating. ISA-L does it three times as fast as Pillow, which therefore gets the
        rows of plain grey images as deflate's stored blocks, and has their filters left to undo.
        """
        if self._content[KIND] != PLAIN_GREY or self.width * self.height > Image.MAX_IMAGE_PIXELS:
            return Image.open(self._file(rows))
        size = rows * (1 + self.width)  # a byte names the filter of a row
        inflated = isal_zlib.decompressobj().decompress(b"".join(self._data), size)
        if len(inflated) < size:
            raise ValueError("rows are missing")
        return Image.frombytes("L", (self.width, rows), _stored(inflated), "zip", "L", 0)

    def _file(self, rows: int) -> io.BytesIO:
        """Make the file anew, with a header that names so many rows: the decoder stops there."""
        file = io.BytesIO(self._content)
        if rows < self.height and not self._content[INTERLACE]:
            header = bytearray(self._content[HEADER])
            header[HEIGHT.start - HEADER.start : HEIGHT.stop - HEADER.start] = rows.to_bytes(4, "big")
            file.seek(HEADER.start)
            file.write(header + zlib.crc32(header).to_bytes(4, "big"))
            file.seek(0)
        return file


def _stored(content: bytes) -> bytes:
    """Wrap bytes as a zlib stream of stored blocks, as `zlib.compress(content, level=0)` does, which takes longer."""
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    view = memoryview(content)
    for start in range(0, len(content), STORED_BLOCK):
        block = view[start : start + STORED_BLOCK]
        last, size = start + len(block) == len(content), len(block)
        parts += [bytes([last]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little"), block]
    return b"".join([*parts, isal_zlib.adler32(content).to_bytes(4, "big")])


def verified_data(content: memoryview) -> list[memoryview]:
    """Return the parts of the compressed rows, each chunk compared with its checksum (PIL's `verify` copies them).

    Raises:
        ValueError: it is no PNG, or not as it was written.
    """
    if content[: len(SIGNATURE)] != SIGNATURE:
        raise ValueError("no PNG")
    data, name, start = [], b"", len(SIGNATURE)
    while name != b"IEND":
        length, name = int.from_bytes(content[start : start + 4], "big"), bytes(content[start + 4 : start + 8])
        end = start + 8 + length
        if end + 4 > len(content) or zlib.crc32(content[start + 4 : end]) != int.from_bytes(
            content[end : end + 4], "big"
        ):
            raise ValueError("the PNG is cut off or damaged")
        if name == b"IDAT":
            data.append(content[start + 8 : end])
        start = end + 4
    if bytes(content[12:16]) != b"IHDR" or not any(content[WIDTH]) or not any(content[HEIGHT]):
        raise ValueError("the PNG has no size")
    return data
