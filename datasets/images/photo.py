"""Image files of all usual kinds as 8-bit colour: JPEG, PNG, BMP, TIFF, WebP; 1, 3 or 4 channels, 8 or 16 bits."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images.png import SIGNATURE, reading, verified_data
from utils.preprocessing import of_8_bits, to_rgb, upright


class Photo:
    """An image file as a source of colour pixels, the right way up.

    Grey becomes three equal channels, of 16 bits as `to_grey` says; what is transparent shows white; a camera that was
    held askew has said so in the file, which is followed.

    Args:
        path: the file.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            content = path.read_bytes()
            if content[: len(SIGNATURE)] == SIGNATURE:
                verified_data(memoryview(content))
            image = upright(Image.open(io.BytesIO(content)))
            self._image = of_8_bits(image)  # here, as all values tell how many bits are used
        self.width, self.height = self._image.size

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Give a part of the image, uint8 (height, width, 3).

        Raises:
            UserError: the file is damaged.
        """
        with reading(self.path):
            return np.asarray(to_rgb(self._image.crop((left, top, left + width, top + height))))
