"""Digits_LT: scikit-learn's bundled 8x8 digits with a long tail. No download."""

import argparse

import numpy as np
from sklearn.datasets import load_digits

from datasets.base import ArrayDataset, DatasetSpec, Splits
from datasets.pool import draw_splits

CLASSES = tuple("0123456789")
TRAIN_COUNTS = (130, 110, 80, 60, 45, 35, 25, 20, 12, 6)
TEST_COUNTS = (40,) * 10


def load(args: argparse.Namespace) -> Splits:
    """Take the last 40 images of each digit for the test split; draw the training split from the others."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    targets = bunch.target.astype(np.int64)
    test = np.sort(np.concatenate([np.flatnonzero(targets == c)[-n:] for c, n in enumerate(TEST_COUNTS)]))
    rest = np.setdiff1d(np.arange(len(targets)), test)
    ids = [f"digits/{row:04d}" for row in range(len(targets))]
    whole = ArrayDataset(images, CLASSES, targets, ids)
    return draw_splits(whole.subset(rest), whole.subset(test), TRAIN_COUNTS, args)


DIGITS_LT = DatasetSpec(
    load=load,
    resize="stretch",
    train_transform="shift",  # and no flip: a mirrored digit is another sign
    classes=CLASSES,
    train_counts=TRAIN_COUNTS,
    test_counts=TEST_COUNTS,
    pool=True,
)
