"""Pictures of what a DGCMM has learnt: images beside their reconstructions, and samples of its components.

Shapes: N images, C components, D length of a code, S = side of the image, s = side of a picture.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dgcmm import DGCMM
from utils.randomness import Stream, generator

SIDE = 96  # of a picture, at most


def rebuild(model: DGCMM, images: Tensor, labels: Tensor) -> Tensor:
    """Rebuild images under their own labels: (N,1 or 3,S,S) in [0,1], (N,) -> both as pictures, (2,N,3,s,s)."""
    rebuilt = model.reconstructions(images, labels)
    return torch.stack([_picture(images.expand_as(rebuilt)), _picture(rebuilt)])


def sample(model: DGCMM, components: Tensor, count: int, seed: int) -> Tensor:
    """Decode the mean of each component, then count - 1 draws from it: (C,) -> pictures (C,count,3,s,s).

    The draws of all components are the same number of standard deviations from their means.
    """
    device = components.device
    noise = torch.zeros(count, model.z_dim, device=device)
    source = generator(seed, Stream.SAMPLES, device=device)
    noise[1:] = torch.randn(count - 1, model.z_dim, generator=source, device=device)
    samples = model.samples(components.repeat_interleave(count), noise.repeat(len(components), 1))
    return _picture(samples).unflatten(0, (len(components), count))


def to_pixels(pictures: Tensor) -> np.ndarray:
    """Turn pictures (...,3,s,s) in [0,1] into what image files hold: (...,s,s,3) uint8."""
    return (255 * pictures).round().byte().movedim(-3, -1).cpu().numpy()


def _picture(images: Tensor) -> Tensor:
    """Shrink images (N,3,S,S) to `SIDE`, if they are larger."""
    if images.shape[-1] <= SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
