"""Digits_LT: scikit-learn's bundled 8x8 digits with a long tail. No download."""

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits
from torchvision import transforms as T

from datasets.base import ArrayDataset
from datasets.names import DATASETS
from datasets.splits import draw_long_tailed
from datasets.transforms import evaluation, small_shift

INFO = DATASETS["Digits_LT"]


def load(root: str, train: bool, transform: Callable | None, subset_seed: int) -> ArrayDataset:
    """The last 40 images of each digit are the test split; the training split is drawn from the others."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    targets = bunch.target.astype(np.int64)
    test = np.sort(np.concatenate([np.flatnonzero(targets == c)[-n:] for c, n in enumerate(INFO.test_counts)]))
    rest = np.setdiff1d(np.arange(len(targets)), test)
    chosen = rest[draw_long_tailed(targets[rest], INFO.train_counts, subset_seed)] if train else test
    ids = [f"digits/{row:04d}" for row in range(len(targets))]
    return ArrayDataset(images, INFO.classes, targets, ids, transform).subset(chosen)


def transform(train: bool, new_size: int, crop_size: int) -> Callable:
    """Resized; in training shifted a little, never flipped: a mirrored digit is another sign."""
    resize = T.Resize((new_size, new_size))
    return evaluation(resize, crop_size, *([small_shift(crop_size)] if train else []))
