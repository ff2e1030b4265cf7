"""Image files as sources of 8-bit grey or colour, whatever their format and depth."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images.photo import Photo
from datasets.images.png import SIGNATURE, GreyPng, reading
from datasets.images.source import ArraySource, ImageSource, whole
from utils.preprocessing import to_grey, upright


def open_image(path: Path, colour: bool) -> ImageSource:
    """Open an image file as a source of RGB pixels, or of grey ones, see `Photo` and `open_grey`.

    Raises:
        UserError: the file is missing or damaged, or of another kind than its name says.
    """
    return Photo(path) if colour else open_grey(path)


def open_grey(path: Path) -> ImageSource:
    """Open an image file: a PNG is decoded where it is needed, any other format at once, the right way up.

    Raises:
        UserError: the file is missing or damaged, or named .png and none.
    """
    with reading(path):
        content = path.read_bytes()
        if content.startswith(SIGNATURE) or path.name.lower().endswith(".png"):
            return GreyPng(path, content)
        with Image.open(io.BytesIO(content)) as image:
            return ArraySource(to_grey(upright(image)))


def read_grey(path: Path) -> np.ndarray:
    """Read all pixels of an image file as 8-bit grey, uint8 (h,w), by the rules of `to_grey`.

    Raises:
        UserError: the file is missing or damaged.
    """
    return whole(open_grey(path))
