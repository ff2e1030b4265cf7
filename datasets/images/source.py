"""Images of which a part can be had, so that nothing is decoded that no one needs."""

from typing import Protocol

import numpy as np


class ImageSource(Protocol):
    """A grey or colour image, in a file or in memory.

    Attributes:
        height, width: in pixels.
    """

    height: int
    width: int

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Give a part, uint8 (height, width), or (height, width, 3) in colour.

        Raises:
            UserError: it cannot be read.
        """


class ArraySource:
    """An image in memory, uint8 (h,w) or (h,w,3)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Give a view of a part."""
        return self.pixels[top : top + height, left : left + width]


def whole(source: ImageSource) -> np.ndarray:
    """Give all pixels of an image, uint8 (h,w) or (h,w,3)."""
    return source.crop(0, 0, source.height, source.width)
