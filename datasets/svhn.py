"""SVHN, whole, and SVHN_LT with the long tail of the DGC paper (4500 down to 80 images a class)."""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import SVHN as TorchvisionSVHN

from datasets.base import ArrayDataset, DatasetSpec, Splits
from datasets.download.beside import Collection, find_or_download
from datasets.pool import draw_splits
from utils.errors import UserError

CLASSES = tuple("0123456789")
TRAIN_COUNTS = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)
LONG_TAIL = (4500, 2000, 1000, 800, 600, 500, 400, 250, 150, 80)
TEST_COUNTS = (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595)


def load(args: argparse.Namespace, long_tail: bool) -> Splits:
    """Read the two .mat files in `--datadir`; torchvision downloads them if they are not there."""
    splits = ("train", "test")
    files = [TorchvisionSVHN.split_list[split] for split in splits]
    collection = Collection(
        name="SVHN",
        files=[name for _, name, _ in files],
        folder="",
        download=lambda root: [TorchvisionSVHN(root, split, download=True) for split in splits],
        remedy=f"put {' and '.join(url for url, _, _ in files)} there",
    )
    folder = find_or_download(Path(args.datadir), collection, args.quiet)
    train, test = (_read(folder, split) for split in splits)
    return draw_splits(train, test, LONG_TAIL, args) if long_tail else Splits(train, None, test)


def _read(folder: Path, split: str) -> ArrayDataset:
    path = folder / TorchvisionSVHN.split_list[split][1]
    try:
        found = TorchvisionSVHN(str(folder), split)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): see its permissions") from error
    except RuntimeError as error:  # its MD5 is another one
        raise UserError(f"{path} differs from what is published: delete it, and it is fetched") from error
    images = np.ascontiguousarray(found.data.transpose(0, 2, 3, 1))
    return ArrayDataset(images, CLASSES, found.labels, [f"{split}/{row:05d}" for row in range(len(images))])


def _spec(long_tail: bool) -> DatasetSpec:
    return DatasetSpec(
        load=partial(load, long_tail=long_tail),
        resize="pad",
        train_transform="shift",  # and no flip, which makes another sign
        classes=CLASSES,
        train_counts=LONG_TAIL if long_tail else TRAIN_COUNTS,
        test_counts=TEST_COUNTS,
        colour=True,
        pool=long_tail,
    )


SVHN, SVHN_LT = (_spec(long_tail) for long_tail in (False, True))
