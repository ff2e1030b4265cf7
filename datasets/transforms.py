"""Transforms that several data sets share; each gives uint8, the model scales and normalises."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F

from datasets.images.source import ArraySource, GreySource


class Enlarge:
    """Enlarge a small image by the largest whole factor that fits into `size`, and pad the rest with black.

    Pixels stay what they were: 28 becomes 32 by padding alone, and 256 by a factor of 9 and 2 pixels of padding.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """Enlarge a square PIL image of any size to (size, size)."""
        factor = self.size // max(image.size)
        if factor == 0:
            return image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if factor > 1:
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BILINEAR)
        spare = (self.size - image.width, self.size - image.height)
        border = (spare[0] // 2, spare[1] // 2, spare[0] - spare[0] // 2, spare[1] - spare[1] // 2)
        return ImageOps.expand(image, border)


class RandomCropAndFlip:
    """torchvision's RandomResizedCrop, then a flip of every second image, on one grey channel.

    The same pixels as torchvision's two transforms give under the same seed. The crop is drawn before anything is
    decoded, so a source can leave out what lies outside.

    Args:
        crop_size: pixels of a side.
    """

    def __init__(self, crop_size: int) -> None:
        self.crop = T.RandomResizedCrop(crop_size)
        self.flip = T.RandomHorizontalFlip()

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image, whose colour is dropped -> uint8 (1, crop_size, crop_size)."""
        return self.take(ArraySource(np.asarray(image.convert("L"))))

    def take(self, source: GreySource) -> Tensor:
        """Crop a source, resize and flip: uint8 (1, crop_size, crop_size)."""
        shape = torch.empty(1, source.height, source.width, device="meta")
        part = source.crop(*self.crop.get_params(shape, self.crop.scale, self.crop.ratio))
        image = F.resize(Image.fromarray(part), self.crop.size)
        return F.pil_to_tensor(self.flip(image))


def evaluation(resize: Callable, crop_size: int, *random: Callable) -> T.Compose:
    """`resize`, centre crop, `random` transforms if any, uint8 tensor (C, crop_size, crop_size)."""
    return T.Compose([resize, T.CenterCrop(crop_size), *random, T.PILToTensor()])


def small_shift(crop_size: int) -> T.RandomCrop:
    """Shift by up to a sixteenth of the image (2 pixels of 32) each way, black coming in at the edge."""
    return T.RandomCrop(crop_size, padding=max(crop_size // 16, 1))
