"""Image files of all usual kinds as 8-bit colour: JPEG, PNG, BMP, TIFF, WebP; 1, 3 or 4 channels, 8 or 16 bits."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets.images.png import SIGNATURE, reading, to_grey, verified_data

BACKGROUND = (255, 255, 255)  # behind what is transparent


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
            self._image = Image.open(io.BytesIO(content))
            ImageOps.exif_transpose(self._image, in_place=True)
            if self._image.mode == "F" or self._image.mode.startswith("I"):  # all values tell how many bits are used
                self._image = Image.fromarray(to_grey(self._image))
        self.width, self.height = self._image.size

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Decode the image and give a part, uint8 (height, width, 3).

        Raises:
            UserError: the file is damaged.
        """
        with reading(self.path):
            return np.asarray(to_rgb(self._image.crop((left, top, left + width, top + height))))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits to RGB, over `BACKGROUND`."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return image.convert("RGB")
