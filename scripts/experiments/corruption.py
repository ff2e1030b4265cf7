"""Test images as another camera might have taken them. Images are (B,C,S,S) in [0,1], and stay there."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.randomness import Stream, generator

Corrupt = Callable[[Tensor, int], Tensor]  # images (B,C,S,S), number of the batch -> images


def with_noise(deviation: float) -> Corrupt:
    """Add Gaussian noise, which is a function of the batch's number and shape alone, and clip."""

    def corrupt(images: Tensor, batch: int) -> Tensor:
        noise = torch.randn(images.shape, generator=generator(0, Stream.CORRUPTION, batch))
        return (images + deviation * noise.to(images)).clamp(0, 1)

    return corrupt


def blurred(images: Tensor) -> Tensor:
    """Take the mean over 3x3 pixels; at the edge over those that there are."""
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


NOISE = "noise 0.2"  # the condition that rows are compared under, beside clean images
CORRUPTIONS: dict[str, Corrupt] = {
    "clean": lambda images, _: images,
    "noise 0.1": with_noise(0.1),
    NOISE: with_noise(0.2),
    "blur 3x3": lambda images, _: blurred(images),
    "half brightness": lambda images, _: images / 2,
}
