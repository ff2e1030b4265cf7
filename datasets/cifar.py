"""CIFAR10 and CIFAR100, whole, and with an exponential long tail: CIFAR10_LT and CIFAR100_LT."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
from torchvision.datasets import CIFAR100 as TorchvisionCIFAR100
from torchvision.datasets.utils import check_integrity

from datasets.base import ArrayDataset, DatasetSpec, Splits
from datasets.download.beside import Collection, find_or_download
from datasets.pool import draw_splits
from datasets.subsets import exponential_counts
from utils.errors import UserError

CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CLASSES_100 = tuple(_NAMES.split())
TRAIN, TEST = 50_000, 10_000  # images
DEFAULT_IMBALANCE = 100.0
SHIFT = 1 / 8  # 4 pixels of 32, as is usual for CIFAR
LongTail = Callable[[float], tuple[int, ...]]


def load(
    args: argparse.Namespace, kind: type[TorchvisionCIFAR10], classes: tuple[str, ...], long_tail: LongTail | None
) -> Splits:
    """Read the batches in `--datadir`, or where torchvision puts them, which downloads them if they are not there.

    Args:
        long_tail: images per class for an `imbalance_factor`, drawn by `subset_seed`; None: all.
    """
    folder = find_or_download(Path(args.datadir), _collection(kind), args.quiet)
    train, test = (_read(folder, kind, classes, split) for split in (True, False))
    if long_tail is None:
        return Splits(train, None, test)
    return draw_splits(train, test, long_tail(args.imbalance_factor), args)


def profile(num_classes: int, factor: float) -> tuple[int, ...]:
    """Give the images per class of the long-tailed sets: (K,)."""
    return exponential_counts(TRAIN // num_classes, num_classes, factor)


def _files(kind: type[TorchvisionCIFAR10]) -> dict[str, str]:
    """Name the files with their MD5."""
    return dict(kind.train_list + kind.test_list) | {kind.meta["filename"]: kind.meta["md5"]}


def _collection(kind: type[TorchvisionCIFAR10]) -> Collection:
    return Collection(
        name=kind.__name__,
        files=tuple(_files(kind)),
        folder=kind.base_folder,
        download=lambda root: kind(root, download=True),
        remedy=f"put {kind.filename} from {kind.url} there",
        archives={kind.filename: kind.tgz_md5},
    )


def _read(folder: Path, kind: type[TorchvisionCIFAR10], classes: tuple[str, ...], train: bool) -> ArrayDataset:
    in_place = type(kind.__name__, (kind,), {"base_folder": ""})  # the folder may have any name
    try:
        found = in_place(str(folder), train=train)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): see its permissions") from error
    except RuntimeError as error:  # the MD5 of a file is another one; torchvision does not say of which
        damaged = [name for name, md5 in _files(kind).items() if not check_integrity(folder / name, md5)]
        what = f"not as published: {', '.join(damaged)}"
        raise UserError(f"{folder}: {what}; delete them, and they are fetched") from error
    ids = [f"{'train' if train else 'test'}/{row:05d}" for row in range(len(found.targets))]
    return ArrayDataset(np.ascontiguousarray(found.data), classes, np.array(found.targets), ids)


def _spec(kind: type[TorchvisionCIFAR10], classes: tuple[str, ...], long_tail: bool) -> DatasetSpec:
    num_classes = len(classes)
    counts = partial(profile, num_classes)
    return DatasetSpec(
        load=partial(load, kind=kind, classes=classes, long_tail=counts if long_tail else None),
        resize="pad",
        train_transform="shift-flip",
        classes=classes,
        train_counts=counts(DEFAULT_IMBALANCE if long_tail else 1),
        test_counts=(TEST // num_classes,) * num_classes,
        long_tail=counts if long_tail else None,
        imbalance=DEFAULT_IMBALANCE if long_tail else None,
        colour=True,
        pool=long_tail,
        shift=SHIFT,
    )


CIFAR10, CIFAR10_LT = (_spec(TorchvisionCIFAR10, CLASSES_10, long_tail) for long_tail in (False, True))
CIFAR100, CIFAR100_LT = (_spec(TorchvisionCIFAR100, CLASSES_100, long_tail) for long_tail in (False, True))
