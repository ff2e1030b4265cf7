"""Random images with a data set's classes and class counts, to try a machine without data."""

import numpy as np
from PIL import Image

from datasets.base import DatasetSpec, ImageDataset, Transform
from utils.randomness import Stream, derive_seed

IMAGE_SIZE = 256


class DummyDataset(ImageDataset):
    """Grey noise; the image of a row is always the same.

    Args:
        spec: of the data set that this stands for.
        train: with the counts of the training split, else of the test split.
        transform: as in `ImageDataset`.
    """

    def __init__(self, spec: DatasetSpec, train: bool, transform: Transform | None = None) -> None:
        counts = spec.train_counts if train else spec.test_counts
        targets = np.repeat(np.arange(len(counts)), counts)
        super().__init__(spec.classes, targets, [f"dummy/{row}" for row in range(len(targets))], transform)

    def read(self, row: int) -> Image.Image:
        """Draw uniform noise of 256x256."""
        rng = np.random.default_rng(derive_seed(0, Stream.DUMMY_IMAGE, row))
        return Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
