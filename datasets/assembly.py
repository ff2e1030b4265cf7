"""The splits of a run: training, held-out and test part of a data set, each with its transform."""

import argparse
from typing import NamedTuple

from datasets import get_dataset, get_transform, prepare
from datasets.base import ImageDataset
from datasets.dummy import DummyDataset
from datasets.splits import hold_out, spread
from utils.errors import UserError


class Splits(NamedTuple):
    """The parts of a data set in one run; `val` is None without a hold-out."""

    train: ImageDataset
    val: ImageDataset | None
    test: ImageDataset

    @property
    def measured(self) -> tuple[str, ImageDataset]:
        """Name and data of the split that is measured after each epoch."""
        return ("test", self.test) if self.val is None else ("val", self.val)

    def spread(self, count: int) -> "Splits":
        """At most `count` images of each part, going round the classes, to try a machine."""
        return Splits(*(part and part.subset(spread(part.targets, count)) for part in self))


def prepare_data(args: argparse.Namespace) -> None:
    """Bring the files of a run's data set into `--datadir`; with `--dummy` there are none.

    Raises:
        UserError: they cannot be brought.
    """
    if not args.dummy:
        prepare(
            args.dataset,
            args.datadir,
            manifest=args.dataset_manifest,
            jobs=args.download_jobs,
            keep_archives=args.keep_archives,
            quiet=args.quiet,
        )


def load_splits(
    name: str,
    root: str,
    *,
    new_size: int,
    crop_size: int,
    subset_seed: int = 0,
    val_fraction: float = 0.0,
    dummy: bool = False,
    augment: bool = True,
) -> Splits:
    """Load a data set and hold out a part of its training split if asked to.

    Args:
        name, root, subset_seed: as in `get_dataset`.
        new_size, crop_size: sides of the resized and of the cropped image, in pixels.
        val_fraction: share of the training images that is held out, stratified, whole patients where there are any.
        dummy: random images instead of the data set's.
        augment: give the training split its random transform; else the evaluation transform.

    Raises:
        UserError: files are missing, or a class has no training image.
    """

    def load(train: bool) -> ImageDataset:
        transform = get_transform(name, train and augment, new_size, crop_size)
        if dummy:
            return DummyDataset(name, train, transform)
        return get_dataset(name, root, train, transform, subset_seed)

    train, val, test = load(True), None, load(False)
    if not len(test):
        raise UserError(f"{name} has no test image in {root}: complete its test list")
    empty = [label for label, count in zip(train.classes, train.class_counts, strict=True) if count == 0]
    if empty:  # a hold-out leaves each class at least one, so this is looked at once
        raise UserError(f"no training image of class {', '.join(empty)} in {root}: every class needs at least one")
    if val_fraction:
        kept, held = hold_out(train.targets, len(train.classes), val_fraction, subset_seed, train.groups)
        if not len(held):
            raise UserError(f"--val-fraction {val_fraction}: nothing can be held out of {len(train)} training images")
        train, val = train.subset(kept), train.subset(held, test.transform)
    return Splits(train, val, test)
