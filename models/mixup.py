"""Mixup (Zhang et al., ICLR 2018): a batch of images, each with a share of another one, and what that makes of labels.

Wherever a model takes onehot(y) it takes share onehot(y) + (1 - share) onehot(y') instead: in the encoder of a
generative model, in the decoder's batch norm, and as responsibilities where labels assign the components. What the
decoder is to rebuild is the mixed image, which the code is of. The classification term is that of both labels, by their
shares.

Shapes: B batch, K classes, S side of the image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Mixed(NamedTuple):
    """What was mixed into a batch."""

    labels: Tensor  # y', of the images that were mixed in, (B,) int64
    share: float  # of an image's own part; 1 - share of what was mixed in

    def label_shares(self, labels: Tensor, num_classes: int) -> Tensor:
        """Compute share onehot(y) + (1 - share) onehot(y') for the labels y of the batch: (B,) -> (B,K)."""
        own, other = (one_hot(y, num_classes, torch.get_default_dtype()) for y in (labels, self.labels))
        return self.share * own + (1 - self.share) * other


def mix(images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Mixed]:
    """Mix each image with the one half a batch further: images (B,...), labels (B,) -> the same, and what was mixed in.

    The order of a batch is random already, so this pairs at random; unlike those of a drawn permutation, the pairs of
    an even batch are mutual. And where each of W processes has every W-th image of a batch, an even number, the image
    half of its own part further is the one half of the whole batch further: the pairs are the same for any number of
    processes.
    """
    half = len(images) // 2
    return torch.lerp(images.roll(half, 0), images, share), Mixed(labels.roll(half), share)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Give labels (B,) as (B,K) of 0 and 1; shares (B,K) stay what they are."""
    return (F.one_hot(labels, num_classes) if labels.dim() == 1 else labels).to(dtype)
