"""PNG files as 8-bit grey: read at once, verified, and decoded no further than is needed."""

import contextlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 29  # of the first chunk, IHDR: from 12 its name, at 16 the width, at 20 the height; its checksum follows
HEIGHT_AT, INTERLACE_AT = 20, 28


class GreyPng:
    """A PNG file as a source of grey pixels.

    Grey stays; colour and palette become luminance, transparency is dropped; 16-bit grey is scaled by 1/257, not cut.
    The checksums of the whole file are verified first: decoding alone makes noise of some damaged files without a word.

    Args:
        path: the file.

    Raises:
        UserError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._named():
            self._content = path.read_bytes()
            if not self._content.startswith(SIGNATURE):
                raise ValueError("no PNG")
            with Image.open(io.BytesIO(self._content)) as image:
                self.width, self.height = image.size
                image.verify()

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A part of the image, uint8 (height, width); rows below it are not decoded.

        Raises:
            UserError: the file is damaged.
        """
        with self._named(), Image.open(self._file(top + height)) as image:
            part = image.crop((left, top, left + width, top + height))
            if image.mode.startswith("I"):
                return (np.asarray(part, dtype=np.float64) / 257).round().astype(np.uint8)
            return np.asarray(part.convert("RGB").convert("L") if part.mode in ("P", "PA") else part.convert("L"))

    def _file(self, rows: int) -> io.BytesIO:
        """The file, with a header that names so many rows: the decoder stops there."""
        file = io.BytesIO(self._content)
        if rows < self.height and not self._content[INTERLACE_AT]:
            header = self._content[12:HEIGHT_AT] + rows.to_bytes(4, "big") + self._content[HEIGHT_AT + 4 : HEADER_END]
            file.seek(12)
            file.write(header + zlib.crc32(header).to_bytes(4, "big"))
            file.seek(0)
        return file

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{self.path} cannot be read ({error}): replace it") from error


def read_grey(path: Path) -> np.ndarray:
    """All pixels of a PNG file as 8-bit grey, uint8 (h,w), by the rules of `GreyPng`.

    Raises:
        UserError: the file is missing or damaged.
    """
    source = GreyPng(path)
    return source.crop(0, 0, source.height, source.width)
