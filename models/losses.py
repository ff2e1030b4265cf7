"""The terms of the loss, their weights, and what the classification term can be."""

from typing import NamedTuple

import torch
from torch import Tensor


class LossWeights(NamedTuple):
    """Weights of the loss terms; a term of weight 0 is not computed and gives its parameters no gradient."""

    cls: float
    reconst: float
    gmm: float


class LossTerms(NamedTuple):
    """The loss of one batch, scalars, float32 or wider; None for a term that was not computed."""

    total: Tensor
    cls: Tensor | None
    reconst: Tensor | None
    gmm: Tensor | None


def widen(tensor: Tensor) -> Tensor:
    """Convert to at least float32, for losses and softmaxes whatever the autocast made of their inputs."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
