"""Images a second that one core makes ready for training, from 1024x1024 PNGs of about 500 kB, like those of ChestXray.

Three ways, each through a DataLoader without workers, up to a batch that the model takes:
    release   PIL to RGB, RandomResizedCrop, flip, ToTensor, Normalize: float32 (B,3,224,224), normalised
    files     the project's: uint8 (B,1,224,224); the model scales, spreads and normalises it, on its device
    cache     the same from the cache at 256x256
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from utils.threads import threads

from datasets.images.cache import prepare_images
from datasets.images.files import FileDataset
from datasets.loading import BatchLoader, TrainBatches
from datasets.transforms import RandomCropAndFlip
from scripts.benchmarks.timing import Ratio, interleave

SIDE, CROP, CACHE = 1024, 224, 256
NOISE = 2.3  # standard deviation in grey levels, with which a PNG of SIDE has about 500 kB
CACHED = 512  # images of a pass over the cache, which takes as long as a few files
TARGETS = {"files": 2.0, "cache": 20.0}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument(
        "--input-images", type=int, default=16, metavar="N", help="images of a timed pass over files (default: 16)"
    )


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Images a second of the project's two ways over the release's, on one thread.

    Args:
        options: `repeats`, timed passes of each way; `input_images`, see `add_flags`.
    """
    with tempfile.TemporaryDirectory() as name, threads(1):
        folder = Path(name)
        few, many = _write_images(folder, options.input_images)
        transform = RandomCropAndFlip(CROP)
        files, cached = (
            FileDataset(folder, names, ["one"], np.zeros(len(names)), names, transform) for names in (few, many)
        )
        cached = prepare_images({"benchmark": cached}, CACHE, "error", quiet=True)["benchmark"]
        release = DataLoader(_Release([folder / name for name in few]), batch_size=len(few), shuffle=True)
        ways = {"release": lambda: list(release), "files": _passes(files), "cache": _passes(cached)}
        size = (folder / few[0]).stat().st_size // 1000
        seconds = interleave(ways, options.repeats)
    counts = {"release": len(few), "files": len(few), "cache": len(many)}
    rates = {way: counts[way] / taken for way, taken in seconds.items()}
    return [
        Ratio(
            f"input: {way} / release's way",
            f"{rates[way]:.0f} and {rates['release']:.0f} images/s per core, PNGs of {size} kB",
            *(rates[way] / rates["release"], target, True),
        )
        for way, target in TARGETS.items()
    ]


class _Release(Dataset):
    """The public release's way to an image."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        normalise = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.transform = T.Compose([T.RandomResizedCrop(CROP), T.RandomHorizontalFlip(), T.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), 0, index


def _passes(data: FileDataset) -> Callable[[], list]:
    """Each call is an epoch of one batch, with crops of its own."""
    loader = BatchLoader(data, TrainBatches(len(data), len(data), seed=0), workers=0, pin_memory=False)
    epochs = itertools.count()

    def one_pass() -> list:
        loader.batches.set_epoch(next(epochs))
        return list(loader)

    return one_pass


def _write_images(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """`count` X-rays, smooth with a little noise, and CACHED names that stand for them in turn."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    few = [f"{row:08d}_000.png" for row in range(count)]
    for name in few:
        phase = rng.uniform(0, 6, 3)
        smooth = 128 + 60 * np.sin(3 * x + phase[0]) * np.cos(4 * y + phase[1]) + 30 * np.sin(17 * x * y + phase[2])
        pixels = np.clip(smooth + rng.normal(0, NOISE, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    many = [f"{row:08d}_001.png" for row in range(CACHED)]
    for row, name in enumerate(many):
        os.link(folder / few[row % count], folder / name)
    return few, many
