"""Digits_LT: scikit-learn's bundled 8x8 digits with a long tail. No download."""

import numpy as np
from sklearn.datasets import load_digits
from torchvision import transforms as T

from datasets.base import ArrayDataset, DatasetSpec, Transform
from datasets.subsets import draw_long_tailed
from datasets.transforms import evaluation, small_shift

CLASSES = tuple("0123456789")
TRAIN_COUNTS = (130, 110, 80, 60, 45, 35, 25, 20, 12, 6)
TEST_COUNTS = (40,) * 10


def load(root: str, train: bool, transform: Transform | None = None, subset_seed: int = 0) -> ArrayDataset:
    """Take the last 40 images of each digit for the test split; draw the training split from the others."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    targets = bunch.target.astype(np.int64)
    test = np.sort(np.concatenate([np.flatnonzero(targets == c)[-n:] for c, n in enumerate(TEST_COUNTS)]))
    rest = np.setdiff1d(np.arange(len(targets)), test)
    chosen = rest[draw_long_tailed(targets[rest], TRAIN_COUNTS, subset_seed)] if train else test
    ids = [f"digits/{row:04d}" for row in range(len(targets))]
    return ArrayDataset(images, CLASSES, targets, ids, transform).subset(chosen)


def transform(train: bool, new_size: int, crop_size: int) -> Transform:
    """Resize; in training shift a little, and never flip: a mirrored digit is another sign."""
    random = [small_shift(crop_size)] if train else []
    return evaluation(T.Resize((new_size, new_size)), crop_size, *random)


DIGITS_LT = DatasetSpec(CLASSES, TRAIN_COUNTS, TEST_COUNTS, load, transform)
