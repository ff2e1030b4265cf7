"""Images that cost nothing to read."""

import numpy as np
import torch
from PIL import Image

from datasets.base import ArrayDataset


def images_in_memory(count: int, side: int, classes: int) -> ArrayDataset:
    """Random grey images; an item is (uint8 (1,side,side), label, index)."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    names, targets = [str(c) for c in range(classes)], np.arange(count) % classes
    return ArrayDataset(pixels, names, targets, [str(n) for n in range(count)], _as_tensor)


def _as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))[None]
