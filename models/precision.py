"""The precision that losses and softmaxes are computed in."""

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for anything narrower, float64 as it is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(tensor: Tensor) -> Tensor:
    """The tensor in at least float32, whatever the autocast made of it."""
    return tensor.to(wide_dtype(tensor.dtype))
