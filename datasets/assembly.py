"""The splits of a run: training, held-out and test part of a data set, each with its transform."""

import argparse
import logging
from typing import NamedTuple

from datasets import get_dataset, get_transform, prepare
from datasets.base import ImageDataset
from datasets.dummy import DummyDataset
from datasets.images.files import FileDataset
from datasets.images.preparation import prepare_images
from datasets.splits import hold_out, spread
from utils.errors import UserError

log = logging.getLogger("dgcmm")


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


def _load_splits(
    name: str,
    root: str,
    *,
    new_size: int,
    crop_size: int,
    subset_seed: int = 0,
    val_fraction: float = 0.0,
    dummy: bool = False,
    augment: bool = True,
    cache_size: int = 0,
    bad_images: str = "error",
    quiet: bool = False,
) -> Splits:
    """Load a data set and hold out a part of its training split if asked to.

    Args:
        name, root, subset_seed: as in `get_dataset`.
        new_size, crop_size: sides of the resized and of the cropped image, in pixels.
        val_fraction: share of the training images that is held out, stratified, whole patients where there are any.
        dummy: random images instead of the data set's.
        augment: give the training split its random transform; else the evaluation transform.
        cache_size, bad_images, quiet: as in `prepare_images`; only images in files can be cached, or bad.

    Raises:
        UserError: files are missing, or a class has no training image.
    """

    def load(train: bool) -> ImageDataset:
        transform = get_transform(name, train and augment, new_size, crop_size)
        if dummy:
            return DummyDataset(name, train, transform)
        return get_dataset(name, root, train, transform, subset_seed)

    train, val, test = load(True), None, load(False)
    if isinstance(train, FileDataset):
        train, test = prepare_images({"training": train, "test": test}, cache_size, bad_images, quiet).values()
    elif cache_size and dummy:
        log.warning("--cache-size %d is not used: --dummy reads no files", cache_size)
    elif cache_size:
        raise UserError(f"--cache-size {cache_size}: {name} is held in memory as it is, leave --cache-size out")
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
    splits = Splits(train, val, test)
    where, measured = splits.measured
    absent = [label for label, count in zip(train.classes, measured.class_counts, strict=True) if count == 0]
    if absent:
        log.warning("no %s image of class %s: left out of auc, recall 0 in the means", where, ", ".join(absent))
    return splits


def load_splits(args, augment=True):
    names = ("new_size", "crop_size", "subset_seed", "val_fraction", "dummy", "cache_size", "bad_images", "quiet")
    return _load_splits(args.dataset, args.datadir, augment=augment, **{n: getattr(args, n) for n in names})
