"""The splits of a run: training, held-out and test part of a data set, each with its transform."""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import DATASETS
from datasets.base import ImageDataset
from datasets.dummy import DummyDataset
from datasets.images.cache import prepare_images
from datasets.images.inspection import warn_of_grey_levels
from datasets.subsets import hold_out, spread
from datasets.tables import count_of
from utils.errors import UserError

log = logging.getLogger("dgcmm")

SHOWN_CLASSES = 20  # in a message


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
        """Keep at most `count` images of each part, going round the classes, to try a machine."""
        return Splits(*(part and part.subset(spread(part.targets, count)) for part in self))


def prepare_data(args: argparse.Namespace, may_be_new: bool = True) -> None:
    """Bring the files of a run's data set into `--datadir`; with `--dummy` there are none.

    Args:
        args: dataset, datadir, dataset_manifest, download_jobs, keep_archives, dummy, resume and quiet are read.
        may_be_new: whether the folder may be made; else it is that of the checkpoint that is resumed.

    Raises:
        UserError: they cannot be brought.
    """
    if args.dummy:
        return
    prepare = DATASETS[args.dataset].prepare
    if prepare:
        if not may_be_new and not Path(args.datadir).is_dir():
            raise UserError(
                f"{args.resume} was trained on {args.datadir}, which is not there: name the data's folder (--datadir)"
            )
        prepare(
            args.datadir,
            manifest=args.dataset_manifest,
            jobs=args.download_jobs,
            keep_archives=args.keep_archives,
            quiet=args.quiet,
        )
    elif args.dataset_manifest:
        raise UserError(f"--dataset-manifest: {args.dataset} has no list of files that it could replace; leave it out")


def load_splits(args: argparse.Namespace, augment: bool = True) -> Splits:
    """Load a run's data set, and hold out a part of its training split if asked to.

    Args:
        args: dataset, datadir, new_size, crop_size, subset_seed, val_fraction, dummy, cache_size, cache_dir, logdir,
            bad_images and quiet are read.
        augment: give the training split its random transform; else the evaluation transform.

    Raises:
        UserError: files are missing or cannot be read, or a class has no training image.
    """
    train, test = _load(args, train=True, augment=augment), _load(args, train=False, augment=False)
    if DATASETS[args.dataset].in_files and not args.dummy:
        parts = {"training": train, "test": test}
        warn_of_grey_levels(train, "training")
        warn_of_overlap(train, test)
        elsewhere = Path(args.logdir) / "cache"
        parts = prepare_images(parts, args.cache_size, args.bad_images, args.quiet, args.cache_dir, elsewhere)
        train, test = parts["training"], parts["test"]
    elif args.cache_size and args.dummy:
        log.warning("--cache-size %d is not used: --dummy reads no files", args.cache_size)
    elif args.cache_size:
        raise UserError(
            f"--cache-size {args.cache_size}: {args.dataset} is held in memory as it is, leave --cache-size out"
        )
    if not len(test):
        raise UserError(f"{args.dataset} has no test image in {args.datadir}: complete its test list")
    empty = absent(train)  # a hold-out leaves each class at least one, so this is looked at once
    if empty:
        raise UserError(f"no training image of class {empty} in {args.datadir}: every class needs at least one")
    val = None
    if args.val_fraction:
        kept, held = hold_out(train.targets, len(train.classes), args.val_fraction, args.subset_seed, train.groups)
        if not len(held):
            raise UserError(
                f"--val-fraction {args.val_fraction}: nothing can be held out of {len(train)} training images"
            )
        train, val = train.subset(kept), train.subset(held, test.transform)
    splits = Splits(train, val, test)
    where, measured = splits.measured
    if unmeasured := absent(measured):
        log.warning("no %s image of class %s: left out of auc, recall 0 in the means", where, unmeasured)
    return splits


def warn_of_overlap(train: ImageDataset, test: ImageDataset) -> None:
    """Warn of test images that training has too, or whose groups it has: they are measured too well.

    Args:
        train, test: the splits, before a hold-out, with ids that name the same images in both.
    """
    same = np.isin(test.ids, train.ids)
    related = same if train.groups is None or test.groups is None else same | np.isin(test.groups, train.groups)
    if related.any():
        log.warning(
            "%s of %d in the test list are of groups (patients) that training has too, %d of them in both lists: what "
            "is measured on them is too good, replace the lists",
            *(count_of(test.ids[related], "image"), len(test), same.sum()),
        )


def _load(args: argparse.Namespace, train: bool, augment: bool) -> ImageDataset:
    spec = DATASETS[args.dataset]
    transform = spec.transform(augment, args.new_size, args.crop_size)
    if args.dummy:
        return DummyDataset(spec, train, transform)
    return spec.load(args.datadir, train, transform, args.subset_seed)


def absent(data: ImageDataset) -> str:
    """Name the classes without an image, joined by commas; of many the first ones, and how many there are."""
    names = [name for name, count in zip(data.classes, data.class_counts, strict=True) if not count]
    return ", ".join(names[:SHOWN_CLASSES]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN_CLASSES else "")
