"""Random images with a data set's classes and class counts, to try a machine without data."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from datasets.base import ImageDataset
from utils.randomness import Stream, derive_seed

IMAGE_SIZE = 256


class DummyDataset(ImageDataset):
    """Noise; the image of a row is always the same.

    Args:
        classes: class names in label order.
        counts: images per class, (K,).
        colour: three channels rather than one.
    """

    def __init__(self, classes: Sequence[str], counts: Sequence[int], colour: bool = False) -> None:
        targets = np.repeat(np.arange(len(counts)), counts)
        super().__init__(classes, targets, [f"dummy/{row}" for row in range(len(targets))])
        self.shape = (IMAGE_SIZE, IMAGE_SIZE, 3) if colour else (IMAGE_SIZE, IMAGE_SIZE)

    def read(self, row: int) -> Image.Image:
        """Draw uniform noise of 256x256, in mode L or RGB."""
        rng = np.random.default_rng(derive_seed(0, Stream.DUMMY_IMAGE, row))
        return Image.fromarray(rng.integers(0, 256, self.shape, dtype=np.uint8))
