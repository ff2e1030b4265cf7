"""Data sets whose training images are drawn from a larger pool."""

import argparse
from collections.abc import Sequence

from datasets.base import ImageDataset, Splits
from datasets.subsets import draw_left_over, draw_long_tailed, scaled_counts


def draw_splits(pool: ImageDataset, test: ImageDataset, counts: Sequence[int], args: argparse.Namespace) -> Splits:
    """Draw the training images and, with `--val-per-class`, a balanced validation set of those that are left over.

    The training images do not depend on whether a validation set is drawn.

    Args:
        pool: what to draw from.
        test: taken as it is.
        counts: training images of each class, (K,), which `--subset-scale` multiplies.
        args: `subset_seed`, `subset_scale` and `val_per_class` are read.

    Raises:
        UserError: the pool has too few images of a class.
    """
    chosen = draw_long_tailed(pool.targets, pool.classes, scaled_counts(counts, args.subset_scale), args.subset_seed)
    val = None
    if args.val_per_class:
        rows = draw_left_over(pool.targets, pool.classes, chosen, args.val_per_class, args.subset_seed, pool.groups)
        val = pool.subset(rows)
    return Splits(pool.subset(chosen), val, test)
