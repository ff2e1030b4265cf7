"""Random images with a data set's classes and class counts, to try a machine without data."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from datasets.base import ImageDataset
from datasets.names import DATASETS
from utils.randomness import Stream, derive_seed

IMAGE_SIZE = 256


class DummyDataset(ImageDataset):
    """Grey noise; the image of a row is always the same."""

    def __init__(self, name: str, train: bool, transform: Callable | None) -> None:
        info = DATASETS[name]
        counts = info.train_counts if train else info.test_counts
        targets = np.repeat(np.arange(len(counts)), counts)
        super().__init__(info.classes, targets, [f"dummy/{row}" for row in range(len(targets))], transform)

    def read(self, row: int) -> Image.Image:
        """Uniform noise of 256x256."""
        rng = np.random.default_rng(derive_seed(0, Stream.DUMMY_IMAGE, row))
        return Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
