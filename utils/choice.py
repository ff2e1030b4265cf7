"""Some of very many: classes of all sizes, images round the classes in turn."""

from collections.abc import Sequence

import numpy as np


def by_size(counts: Sequence[int]) -> np.ndarray:
    """Order classes from the largest to the smallest: images of each (K,) -> class numbers (K,)."""
    return np.argsort(-np.asarray(counts), kind="stable")


def some_classes(counts: Sequence[int], at_most: int) -> np.ndarray:
    """Choose classes of all sizes, the largest and the smallest among them; from the largest to the smallest.

    Args:
        counts: images of each class, (K,).
        at_most: classes, if there are more.
    """
    order = by_size(counts)
    if len(order) <= at_most:
        return order
    return order[np.linspace(0, len(order) - 1, at_most).round().astype(np.int64)]


def images_of(classes: Sequence[int], targets: np.ndarray, at_most: int) -> np.ndarray:
    """Choose images of some classes, round the classes in turn, so that of a small one most are there.

    Args:
        classes: class numbers.
        targets: label of each image, (N,).
        at_most: images.

    Returns:
        Sorted indices into `targets`.
    """
    rows = np.flatnonzero(np.isin(targets, classes))
    return np.sort(rows[np.argsort(rank_in_class(targets[rows]), kind="stable")[:at_most]])


def rank_in_class(targets: np.ndarray) -> np.ndarray:
    """Count how many images of its class come before each image: labels (N,) -> (N,)."""
    order = np.argsort(targets, kind="stable")
    ranks = np.empty(len(targets), dtype=np.int64)
    ranks[order] = np.arange(len(targets)) - np.searchsorted(targets[order], targets[order])
    return ranks
