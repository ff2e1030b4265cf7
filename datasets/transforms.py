"""Transforms that several data sets share; each gives uint8, the model scales and normalises."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F

from datasets.images.source import ArraySource, ImageSource
from utils.preprocessing import RESIZES, Transform, to_tensor

TRAIN_TRANSFORMS = ("resized-crop", "resized-crop-jitter", "shift-flip", "shift", "none")
JITTER = 0.4  # share that brightness, contrast and saturation change by at most, as in Kang et al., ICLR 2020


def resize_under(kind: str, own: str) -> str:
    """Name the resize that goes with a training transform: images that are shifted are padded, not blown up.

    Args:
        kind: one of `TRAIN_TRANSFORMS`.
        own: the resize of the data set.
    """
    if not kind.startswith("shift"):
        return own
    return "pad or centre" if own == "centre" else "pad"


def make_transform(kind: str, train: bool, own: str, new_size: int, crop_size: int, shift: float) -> Transform:
    """Make the transform of a split, to uint8 (1 or 3, crop_size, crop_size).

    Args:
        kind: one of `TRAIN_TRANSFORMS`.
        train: with the random part.
        own: the resize of the data set, a key of `utils.preprocessing.RESIZES`.
        new_size, crop_size: what images are resized to, and the side of the crop.
        shift: the most that an image is shifted by, as a share of the crop.
    """
    if train and kind.startswith("resized-crop"):
        return RandomCropAndFlip(crop_size, JITTER if kind == "resized-crop-jitter" else 0)
    random: list[Callable] = []
    if train and kind.startswith("shift"):
        random.append(small_shift(crop_size, shift))
    if train and kind == "shift-flip":
        random.append(T.RandomHorizontalFlip())
    return to_tensor(RESIZES[resize_under(kind, own)](new_size), crop_size, *random)


class RandomCropAndFlip:
    """torchvision's RandomResizedCrop, then a flip of every second image, then if asked to a ColorJitter.

    The same pixels as torchvision's transforms give under the same seed. The crop is drawn before anything is
    decoded, so a source can leave out what lies outside.

    Args:
        crop_size: pixels of a side.
        jitter: share that brightness, contrast and saturation change by at most; 0: they stay.
    """

    def __init__(self, crop_size: int, jitter: float = 0) -> None:
        self.crop = T.RandomResizedCrop(crop_size)
        self.flip = T.RandomHorizontalFlip()
        self.jitter = T.ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image, mode L or RGB -> uint8 (1 or 3, crop_size, crop_size)."""
        return self.take(ArraySource(np.asarray(image)))

    def take(self, source: ImageSource) -> Tensor:
        """Crop a source, resize, flip and jitter: uint8 (1 or 3, crop_size, crop_size)."""
        shape = torch.empty(1, source.height, source.width, device="meta")
        part = source.crop(*self.crop.get_params(shape, self.crop.scale, self.crop.ratio))
        image = F.resize(Image.fromarray(part), self.crop.size)
        image = self.flip(image)
        return F.pil_to_tensor(self.jitter(image) if self.jitter else image)


def small_shift(crop_size: int, share: float) -> T.RandomCrop:
    """Shift by up to a share of the image (of a sixteenth 2 pixels of 32) each way, black coming in at the edge."""
    return T.RandomCrop(crop_size, padding=max(int(crop_size * share), 1))
