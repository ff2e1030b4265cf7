"""The splits of a run: training, held-out and test part of a data set, each with its transform."""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import transforms as T

from datasets import DATASETS
from datasets.base import DatasetSpec, ImageDataset, Splits
from datasets.dummy import DummyDataset
from datasets.images.files import FileDataset
from datasets.images.inspection import warn_of_grey_levels
from datasets.images.preparation import prepare_images
from datasets.subsets import hold_out, scaled_counts
from datasets.tables import count_of
from datasets.transforms import resize_under
from utils.choice import by_size
from utils.errors import UserError
from utils.metrics import shot_group
from utils.preprocessing import Preprocessing

log = logging.getLogger("dgcmm")

Parts = Mapping[str, Sized | None]  # the images of each split

LISTED_CLASSES = 20  # in a message; of more only the largest and the smallest, or the first ones


def complete_data(args: argparse.Namespace) -> None:
    """Fill in what the data set decides where no flag does, before anything is loaded.

    Raises:
        UserError: a flag is given that the data set does not have, or one is lacking that it needs.
    """
    spec, name = DATASETS[args.dataset], args.dataset
    args.train_transform = args.train_transform or spec.train_transform
    if spec.long_tail:
        args.imbalance_factor = args.imbalance_factor or spec.imbalance
        spec.long_tail(args.imbalance_factor)  # which refuses too large a factor, before anything is downloaded
    elif args.imbalance_factor is not None:
        raise UserError(f"--imbalance-factor {args.imbalance_factor:g}: {name} has counts of its own, leave it out")
    if args.subset_scale != 1 and not spec.pool:
        raise UserError(f"--subset-scale {args.subset_scale:g}: {name} is not drawn from a larger pool, leave it out")
    if args.csv and not spec.table:
        raise UserError(f"--csv {args.csv}: {name} reads no table, leave it out (the data set CSV does)")
    if getattr(args, "val_per_class", 0) and not spec.pool:  # an augmentation has it from its checkpoint
        raise UserError(
            f"--val-per-class {args.val_per_class}: {name} is not drawn from a larger pool of images, give "
            "--val-fraction, which holds training images out"
        )
    if args.names and not spec.takes_names:
        raise UserError(f"--names {args.names}: the classes of {name} have their names, leave it out")
    if spec.table and not args.csv and not args.dummy:
        raise UserError(f"{name} needs --csv: name the file with the columns path and label")
    if args.dummy and not spec.classes:
        raise UserError(f"--dummy: only its files tell the classes of {name}; try the machine with another data set")


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
        if not may_be_new and not os.path.isdir(args.datadir):
            raise UserError(f"{args.datadir} is not there: name the folder of the data of {args.resume} (--datadir)")
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
        args: dataset, datadir, new_size, crop_size, train_transform, subset_seed, val_fraction, val_per_class, dummy,
            cache_size, cache_dir, logdir, bad_images, quiet and the data set's own flags are read; completed by
            `complete_data`.
        augment: give the training split its random transform; else the evaluation transform.

    Raises:
        UserError: files are missing or cannot be read, or a class has no training image.
    """
    spec = DATASETS[args.dataset]
    found = _found(spec, args)
    if spec.takes_names and not len(found.train):
        remedy = "give some rows the split train" if spec.table else "put some into train/CLASS/"
        raise UserError(f"{args.dataset} has no training image in {args.datadir}: {remedy}")
    if args.val_fraction and found.val is not None:
        raise UserError(f"--val-fraction {args.val_fraction}: the data has a validation set of its own, leave it out")
    parts = {"training": found.train, "validation": found.val, "test": found.test}
    resize = resize_under(args.train_transform, spec.resize)
    parts = _prepared(spec, {name: part for name, part in parts.items() if part is not None}, args, resize)
    train, val, test = parts["training"], parts.get("validation"), parts["test"]
    empty = absent(train)  # a hold-out leaves each class at least one, so this is looked at once
    if empty:
        raise UserError(f"no training image of class {empty} in {args.datadir}: every class needs at least one")
    if args.val_fraction:
        kept, held = hold_out(train.targets, len(train.classes), args.val_fraction, args.subset_seed, train.groups)
        if not len(held):
            raise UserError(
                f"--val-fraction {args.val_fraction}: nothing can be held out of {len(train)} training images"
            )
        train, val = train.subset(kept), train.subset(held)
    for part in (train, val, test):
        if part is not None:
            random = augment and part is train
            part.transform = spec.transform(random, args.new_size, args.crop_size, args.train_transform)
    if single := [name for name, count in zip(train.classes, train.class_counts, strict=True) if count == 1]:
        log.warning(
            "a single training image, around which a re-training draws all codes: %s",
            count_of(single, "class", "classes"),
        )
    for name, part in (("val", val), ("test", test)):
        if part is not None:
            _warn_of_absent(part, name)
    return Splits(train, val, test)


def preprocessing_of(checkpoint: Mapping[str, Any]) -> Preprocessing:
    """Tell how images are prepared for a model, whatever data they are of: as its own were in the evaluation.

    For checkpoints that do not say it themselves, the data set's entry does.
    """
    facts = checkpoint.get("preprocessing")
    if facts:
        return Preprocessing(**facts)
    spec = DATASETS[checkpoint["dataset"]]
    before = {"train_transform": spec.train_transform, "cache_size": 0, "dummy": False}  # there were such flags
    return spec.preprocessing(argparse.Namespace(**before | checkpoint["args"]))


def load_test(args: argparse.Namespace, classes: Sequence[str], preprocessing: Preprocessing) -> ImageDataset:
    """Load the test split alone, for a model that is trained; one's own data may lack all others, and some classes.

    Images become grey or coloured as the model takes them, whether they lie in files or in memory.

    Args:
        args: as for `load_splits`.
        classes: of the model, in label order; the labels are numbered so.
        preprocessing: of the model.

    Raises:
        UserError: files are missing or cannot be read, the data has other classes, or the cache has another size than
            the images of the training were first resized to.
    """
    spec = DATASETS[args.dataset]
    found = _found(spec, argparse.Namespace(**vars(args), test_alone=True))
    if isinstance(found.test, FileDataset):
        found.test.colour = preprocessing.colour
        first = preprocessing.cache_size or preprocessing.new_size  # what images are resized to first
        if args.cache_size not in (0, first):
            raise UserError(
                f"--cache-size {args.cache_size}: the images of the training were first resized to {first}, give that, "
                "or leave --cache-size out"
            )
    test = _prepared(spec, {"test": found.test}, args, preprocessing.resize)["test"]
    if not spec.classes:
        test = test.labelled_as(classes)
    test.transform = preprocessing.evaluation_transform()
    if not isinstance(test, FileDataset):
        test.transform = T.Compose([preprocessing.pixels, test.transform])
    _warn_of_absent(test, "test")
    return test


def _found(spec: DatasetSpec, args: argparse.Namespace) -> Splits:
    """Find the images of a run, before anything is read."""
    if args.cache_size and args.dummy:
        log.warning("--cache-size %d is not used: --dummy reads no files", args.cache_size)
    elif args.cache_size and not spec.in_files:
        raise UserError(
            f"--cache-size {args.cache_size}: {args.dataset} is held in memory as it is, leave --cache-size out"
        )
    try:
        splits = _dummy(spec, args) if args.dummy else spec.load(args)
    except FileNotFoundError as error:  # of a data set that does not look itself
        raise UserError(f"{error}: name the folder of {args.dataset} with --datadir") from error
    if not len(splits.test):
        raise UserError(f"{args.dataset} has no test image in {args.datadir}: complete its test list")
    if spec.in_files and not args.dummy:
        warn_of_overlap(splits.train, splits.test)
        if splits.val is not None:
            warn_of_overlap(splits.train, splits.val, "validation")
            warn_of_overlap(splits.val, splits.test, other="the validation set")
    return splits


def _warn_of_absent(data: ImageDataset, split: str) -> None:
    """Warn of classes that a split has no image of."""
    if missing := absent(data):
        log.warning("no %s image of class %s: left out of auc, recall 0 in the means", split, missing)


def warn_of_overlap(seen: ImageDataset, measured: ImageDataset, split: str = "test", other: str = "training") -> None:
    """Warn of measured images that training has too, or whose groups it has: they are measured too well.

    So are test images that the validation set has too, on which the best epoch is chosen.

    Args:
        seen, measured: the splits, before a hold-out, with ids and groups that name the same things in both.
        split: what messages call the measured one.
        other: what they call the one that was seen before.
    """
    same = np.isin(measured.ids, seen.ids)
    related = same
    if seen.groups is not None and measured.groups is not None:
        related = same | np.isin(measured.groups, seen.groups)
    if related.any():
        log.warning(
            "%s of %d in the %s split are of groups (patients) that %s has too, %d of them are in both lists: "
            "what is measured on them is too good, mend the lists",
            count_of(measured.ids[related], "image"),
            len(measured),
            split,
            other,
            same.sum(),
        )


def _dummy(spec: DatasetSpec, args: argparse.Namespace) -> Splits:
    counts = spec.long_tail(args.imbalance_factor) if spec.long_tail else spec.train_counts
    counts = scaled_counts(counts, args.subset_scale)
    log.info("--dummy: all images are random")
    train, test = (DummyDataset(spec.classes, split, spec.colour) for split in (counts, spec.test_counts))
    balanced = (args.val_per_class,) * len(spec.classes)
    return Splits(train, DummyDataset(spec.classes, balanced, spec.colour) if args.val_per_class else None, test)


def _prepared(
    spec: DatasetSpec, parts: dict[str, ImageDataset], args: argparse.Namespace, resize: str
) -> dict[str, ImageDataset]:
    """Read the images of some parts from the cache, or leave bad ones out, if asked to.

    Args:
        parts: of the data set, by the names that messages give them.
        resize: how images become square in a cache, a key of `RESIZES`.
    """
    if args.dummy:
        return parts
    part, data = next(iter(parts.items()))
    if not spec.in_files:
        mode = data.read(0).mode if len(data) else None
        if mode and (mode == "RGB") != spec.colour:
            raise UserError(
                f"{args.dataset}: its images are of mode {mode}, and its DatasetSpec says colour={spec.colour}"
            )
        return parts
    warn_of_grey_levels(data, part)
    elsewhere = Path(args.logdir) / "cache"
    return prepare_images(parts, args.cache_size, args.bad_images, args.quiet, args.cache_dir, elsewhere, resize)


def log_images(splits: Splits, name: str) -> None:
    """Say how many images a run has, and how imbalanced its classes are.

    Args:
        name: of the data set.
    """
    train, val, test = splits
    held = f", {len(val)} held out" if val else ""
    log.info("%s: %d training images%s, %d test images", name, len(train), held, len(test))
    classes, counts = train.classes, train.class_counts
    order = by_size(counts)
    shown = [f"{classes[c]} {counts[c]}" for c in range(len(classes))]
    if len(classes) > LISTED_CLASSES:
        ends = LISTED_CLASSES // 2
        shown = [shown[c] for c in order[:ends]] + ["..."] + [shown[c] for c in order[-ends:]]
    log.info("images per class: %s", ", ".join(shown))
    largest, smallest = int(order[0]), int(order[-1])
    groups = Counter(shot_group(count) for count in counts)
    log.info(
        "imbalance: %d classes, largest %s %d, smallest %s %d, ratio %.4g; %d many, %d median, %d low",
        len(classes),
        classes[largest],
        counts[largest],
        classes[smallest],
        counts[smallest],
        counts[largest] / max(counts[smallest], 1),
        groups["many"],
        groups["median"],
        groups["low"],
    )


def warn_of_part(args: argparse.Namespace, parts: Parts, nodes: int = 1, taken: Parts | None = None) -> None:
    """Warn if `--max-steps`, which a run that is continued still has, leaves images of the measured splits out.

    Args:
        args: max_steps and batch_size are read.
        parts: all images; splits other than 'val' and 'test' are not measured.
        nodes: each takes `--batch-size` images a step.
        taken: the images that are measured, where they have been chosen; None for the first steps of each split.
    """
    for split in ("val", "test") if args.max_steps else ():
        there = len(parts.get(split) or ())
        measured = args.max_steps * args.batch_size * nodes if taken is None else len(taken[split] or ())
        if measured < there:
            log.warning("--max-steps %d: %d of %d %s images are measured", args.max_steps, measured, there, split)


def absent(data: ImageDataset) -> str:
    """Name the classes without an image, joined by commas; of many the first ones, and how many there are."""
    names = [name for name, count in zip(data.classes, data.class_counts, strict=True) if not count]
    return ", ".join(names[:LISTED_CLASSES]) + (f", ... ({len(names)} in all)" if len(names) > LISTED_CLASSES else "")
