"""MNIST_LT and FashionMNIST_LT: IDX files with the long tail of the DGC paper (4000 down to 40 images a class).

With an `--imbalance-factor` as many images have the exponential profile of CIFAR10_LT.
"""

import argparse
import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST, FashionMNIST

from datasets.base import ArrayDataset, DatasetSpec, Splits
from datasets.download.beside import Collection, find_or_download
from datasets.pool import draw_splits
from datasets.subsets import exponential_counts
from utils.errors import UserError

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TRAIN_COUNTS = (4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40)
PUBLISHED = {  # images of each class in the files
    "MNIST": {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "t10k": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    },
    "Fashion-MNIST": {"train": (6000,) * 10, "t10k": (1000,) * 10},
}
FILES = tuple(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
FORMS = ("", ".gz")


def _collection(torchvision_class: type[MNIST], name: str, source: str) -> Collection:
    return Collection(
        name,
        FILES,
        f"{torchvision_class.__name__}/raw",
        lambda root: torchvision_class(root, download=True),
        f"put the four IDX files of {name} there, plain or .gz, from {source} for example",
        forms=FORMS,
    )


MNIST_FILES = _collection(MNIST, "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist")
FASHION_FILES = _collection(FashionMNIST, "Fashion-MNIST", "Debian's package dataset-fashion-mnist")


def long_tail(factor: float | None) -> tuple[int, ...]:
    """Give the images per class: the DGC paper's, or by a factor the exponential profile with as many in all.

    The sum may fall short of 9,000 by a few images, as the profile is cut to whole ones.
    """
    if factor is None:
        return TRAIN_COUNTS
    classes = len(TRAIN_COUNTS)
    profile = sum(factor ** (-label / (classes - 1)) for label in range(classes))
    return exponential_counts(round(sum(TRAIN_COUNTS) / profile), classes, factor)


def load(args: argparse.Namespace, classes: tuple[str, ...], collection: Collection) -> Splits:
    """Draw the training subset and take the whole test set, from the IDX files in `--datadir`.

    They lie in it or where torchvision puts them, which downloads them if they are not all there.
    """
    folder = find_or_download(Path(args.datadir), collection, args.quiet)
    train, test = (_read(folder, prefix, classes, collection) for prefix in ("train", "t10k"))
    return draw_splits(train, test, long_tail(args.imbalance_factor), args)


def _read(folder: Path, prefix: str, classes: tuple[str, ...], collection: Collection) -> ArrayDataset:
    images = _read_idx(collection.path(folder, f"{prefix}-images-idx3-ubyte"), 3)
    targets = _read_idx(collection.path(folder, f"{prefix}-labels-idx1-ubyte"), 1).astype(np.int64)
    if len(images) != len(targets):
        raise UserError(f"{folder}: {len(images)} {prefix} images but {len(targets)} labels: replace the files")
    if targets.max(initial=0) >= len(classes):
        raise UserError(
            f"{folder}: {prefix} label {targets.max()}, but {collection.name} has 0 to 9: replace the files"
        )
    data = ArrayDataset(images, classes, targets, [f"{prefix}/{row:05d}" for row in range(len(targets))])
    counts = tuple(data.class_counts)
    found = next((name for name, published in PUBLISHED.items() if published[prefix] == counts), None)
    if found not in (collection.name, None):  # the files of both have the same names
        raise UserError(f"{folder} has the {prefix} files of {found}, not of {collection.name}: name another --datadir")
    return data


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped: 0x800 + d, d sizes, the bytes; big-endian."""
    try:
        content = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): replace or delete it") from error
    start = 4 * (1 + dimensions)
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", content[:start].ljust(start, b"\0"))
    if magic != 0x800 + dimensions or len(content) != start + math.prod(sizes):
        raise UserError(f"{path} is not a complete IDX file of {dimensions} dimensions: replace or delete it")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


MNIST_LT = DatasetSpec(
    load=partial(load, classes=DIGITS, collection=MNIST_FILES),
    resize="pad",
    train_transform="shift",
    classes=DIGITS,
    train_counts=TRAIN_COUNTS,
    long_tail=long_tail,
    test_counts=PUBLISHED["MNIST"]["t10k"],
    pool=True,
)
FASHION_MNIST_LT = DatasetSpec(
    load=partial(load, classes=CLOTHES, collection=FASHION_FILES),
    resize="pad",
    train_transform="shift-flip",
    classes=CLOTHES,
    train_counts=TRAIN_COUNTS,
    long_tail=long_tail,
    test_counts=PUBLISHED["Fashion-MNIST"]["t10k"],
    pool=True,
)
