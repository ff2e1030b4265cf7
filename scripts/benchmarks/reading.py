"""Images a second that one core makes ready for training, from 1024x1024 PNGs of about 500 kB, like those of ChestXray.

Three ways, each through a DataLoader without workers, up to a batch:
    release    PIL to RGB, RandomResizedCrop, flip, ToTensor, Normalize: float32 (B,3,224,224), normalised
    files      the project's: uint8 (B,1,224,224); the model scales and normalises it, on its device
    cache      the same from the cache at 256x256
"""

import contextlib
import csv
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from datasets.images.files import FileDataset
from datasets.loading import BatchLoader, make_loader
from datasets.splits import load_splits
from models.encoder import IMAGENET_MEAN, IMAGENET_STD
from scripts.benchmarks.setup import CHESTXRAY, CLASSES, Sizes, train_args
from scripts.benchmarks.timing import Ratio, Side, speedup
from utils.distributed.world import World

FILES_TARGET, CACHE_TARGET = 2.0, 20.0
FILES_BATCHES, CACHE_BATCHES = 2, 32  # of a timed call, which take about as long
NOISE = 2.3  # standard deviation in grey levels, with which a PNG of 1024x1024 has about 500 kB


def reading(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare both of the project's ways with the release's, on one thread."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        write_chestxray(Path(folder), sizes)
        flags = (f"--datadir={folder}", "--workers=0", f"--batch-size={sizes.batch}")
        ways = (("files", 0, FILES_BATCHES, FILES_TARGET), ("cache", sizes.resized, CACHE_BATCHES, CACHE_TARGET))
        for way, cache_size, batches, target in ways:
            args = train_args(sizes, *flags, f"--cache-size={cache_size}")
            data = load_splits(args).train
            ours = endless(make_loader(World(), args, data, train=True))
            plain = DataLoader(ReleaseImages(data, sizes.side), sizes.batch, shuffle=True)
            release = itertools.chain.from_iterable(itertools.repeat(plain))
            sides = take(ours, batches, sizes.batch), take(release, FILES_BATCHES, sizes.batch)
            yield speedup(f"reading: {way} / release's way, one core", *sides, target, repeats)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def endless(loader: BatchLoader) -> Iterator[list[Tensor]]:
    """Give the batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.batches.set_epoch(epoch)
        yield from loader


def take(batches: Iterator[list[Tensor]], count: int, size: int) -> Side:
    """Make a side that takes the next `count` batches at each call."""
    return Side(lambda: deque(itertools.islice(batches, count), maxlen=0), count * size)


class ReleaseImages(Dataset):
    """The files of a data set by PIL and torchvision's transforms."""

    def __init__(self, data: FileDataset, side: int) -> None:
        self.paths = [data.path(row) for row in range(len(data))]
        self.targets = data.targets.tolist()
        normalise = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.transform = T.Compose([T.RandomResizedCrop(side), T.RandomHorizontalFlip(), T.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.targets[index]


def write_chestxray(folder: Path, sizes: Sizes) -> None:
    """Write PNGs in ChestXray's layout: `sizes.files` training images, and a test image of each class."""
    (folder / "images").mkdir()
    names = [f"{number:08d}_000.png" for number in range(sizes.files + CLASSES)]
    for number, name in enumerate(names):
        path = folder / "images" / name
        if number < sizes.pngs:
            Image.fromarray(x_ray(sizes.png_side, number)).save(path)
        else:
            os.link(path.with_name(names[number % sizes.pngs]), path)
    labels = ((name, CHESTXRAY.classes[number % CLASSES]) for number, name in enumerate(names))
    with (folder / "Data_Entry_2017.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Image Index", "Finding Labels"), *labels])
    (folder / "train_val_list.txt").write_text("\n".join(names[: sizes.files]))
    (folder / "test_list.txt").write_text("\n".join(names[sizes.files :]))


def x_ray(side: int, seed: int) -> np.ndarray:
    """Draw what is as smooth and as noisy as an X-ray, uint8 (side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    phase = rng.uniform(0, 6, 3)
    smooth = 128 + 60 * np.sin(3 * x + phase[0]) * np.cos(4 * y + phase[1]) + 30 * np.sin(17 * x * y + phase[2])
    return np.clip(smooth + rng.normal(0, NOISE, smooth.shape), 0, 255).astype(np.uint8)
