"""Image files as sources of 8-bit grey, whatever their format and depth."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images.png import READING_ERRORS, GreyPng
from datasets.images.source import ArraySource, ImageSource, whole
from utils.errors import UserError
from utils.preprocessing import to_grey


def open_grey(path: Path) -> ImageSource:
    """Open an image file: a PNG is decoded where it is needed, any other format at once.

    Raises:
        UserError: the file is missing or damaged.
    """
    if path.name.lower().endswith(".png"):
        return GreyPng(path)
    try:
        with Image.open(path) as image:
            return ArraySource(to_grey(image))
    except READING_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error}): replace it") from error


def read_grey(path: Path) -> np.ndarray:
    """Read all pixels of an image file as 8-bit grey, uint8 (h,w), by the rules of `to_grey`.

    Raises:
        UserError: the file is missing or damaged.
    """
    return whole(open_grey(path))
