"""Grey images on the way to a batch: one channel of bytes, cropped first, resized, and nothing else.

The model spreads one channel over the three of its encoder and normalises, so no pixel is touched three times here.
"""

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# of torchvision's RandomResizedCrop, by default and in the published recipe
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10

LANES = 4  # channels that torch's vector code for bytes takes at once


class GreySource(Protocol):
    """An image of which a part can be had."""

    height: int
    width: int

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """That part, uint8 (height, width)."""


def whole(source: GreySource) -> np.ndarray:
    """All pixels of an image, uint8 (h,w)."""
    return source.crop(0, 0, source.height, source.width)


class ArraySource:
    """An image in memory, uint8 (h,w)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A view of that part."""
        return self.pixels[top : top + height, left : left + width]


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bilinear with antialiasing, as PIL and torchvision do it, within two grey levels of both.

    torch resizes bytes fast where four of them lie side by side as channels. Along the height any four columns may
    stand for channels; so the height is resized, the image turned, and what was its width is resized the same way.

    Args:
        pixels: uint8 (h,w).
        size: pixels of a side.

    Returns:
        uint8 (size, size); the same pixels if the size is theirs.
    """
    return _resize_height(_resize_height(pixels, size).T, size).T


def _resize_height(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h,w) -> (size,w)."""
    height, width = pixels.shape
    if height == size:
        return pixels
    groups = -(-width // LANES)
    padded = np.zeros((height, groups * LANES), dtype=np.uint8)
    padded[:, :width] = pixels
    lanes = torch.from_numpy(padded).view(1, height, groups, LANES).permute(0, 3, 1, 2)
    resized = F.interpolate(lanes, (size, groups), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(size, groups * LANES).numpy()[:, :width]


def draw_crop(height: int, width: int, numbers: list[float]) -> tuple[int, int, int, int]:
    """The part that torchvision's RandomResizedCrop would draw: (top, left, height, width).

    Args:
        height, width: of the image.
        numbers: 2 * ATTEMPTS + 2 uniform ones in [0,1).
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for attempt in range(ATTEMPTS):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * numbers[2 * attempt])
        ratio = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return int(numbers[-2] * (height - rows + 1)), int(numbers[-1] * (width - columns + 1)), rows, columns
    # no such part fits into so narrow an image: the middle, as much of it as a ratio in range allows
    columns, rows = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


class GreyTransform:
    """From a grey image to uint8 (1,S,S); a subclass gives `take`."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Of a PIL image, whose colour is dropped."""
        return self.take(ArraySource(np.asarray(image.convert("L"))))

    def take(self, source: GreySource) -> Tensor:
        """Of a source, which decodes no more than is asked of it."""
        raise NotImplementedError


class RandomCropAndFlip(GreyTransform):
    """RandomResizedCrop and a horizontal flip of every second image; draws from torch's global generator.

    Args:
        crop_size: pixels of a side.
    """

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size

    def take(self, source: GreySource) -> Tensor:
        """uint8 (1, crop_size, crop_size)."""
        *numbers, flip = torch.rand(2 * ATTEMPTS + 3).tolist()
        pixels = resize(source.crop(*draw_crop(source.height, source.width, numbers)), self.crop_size)
        return torch.from_numpy(np.array(pixels[:, ::-1] if flip < 0.5 else pixels, order="C"))[None]


class ResizeAndCentreCrop(GreyTransform):
    """The whole image resized, and the centre of that.

    Args:
        new_size, crop_size: pixels of a side, after the one and the other.
    """

    def __init__(self, new_size: int, crop_size: int) -> None:
        self.new_size, self.crop_size = new_size, crop_size

    def take(self, source: GreySource) -> Tensor:
        """uint8 (1, crop_size, crop_size)."""
        pixels = resize(whole(source), self.new_size)
        start = round((self.new_size - self.crop_size) / 2)
        centre = slice(start, start + self.crop_size)
        return torch.from_numpy(np.array(pixels[centre, centre], order="C"))[None]
