"""What the rows share: their sizes, the scripts' arguments, runs, images, and torchvision's bare training."""

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import train
from datasets import DATASETS
from datasets.loading import TrainBatches
from datasets.splits import complete_data
from models.encoder import ARCHITECTURES, feature_dim
from utils.cli.rules import complete, parse
from utils.device import autocast, choose_device, has_fast_bfloat16, usable_cores
from utils.training.position import Position
from utils.training.run import Run

CPU = torch.device("cpu")
CHESTXRAY = DATASETS["ChestXray"]
CLASSES = len(CHESTXRAY.classes)


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are for two CPU cores.

    Attributes:
        device: where all but the evaluation on two processes computes.
        arch, dim, side: the model, the length of its codes, pixels of a side of its images.
        step_targets: (images of a training step, target in float32, target in bfloat16).
        compile: train with `--compile` where steps are compared.
        steps, batches: of a timed call, in training and else.
        batch: images at a time in all other rows.
        many: labels or components where they are many.
        mixture_batch: codes whose mixture term is computed.
        png_side, pngs: pixels of a side of the PNG files, and how many differ; they are linked under more names.
        files: names of PNG files, the images of an epoch.
        workers: processes that load in a whole epoch, and codes in the release's way.
        counts: training codes of each class.
        code_steps: steps of a timed re-training.
    """

    device: torch.device = CPU
    arch: str = "resnet_vae3"
    dim: int = 2048
    side: int = 224
    step_targets: tuple[tuple[int, float, float], ...] = ((16, 1.05, 1.10),)
    compile: bool = False
    steps: int = 1
    batches: int = 2
    batch: int = 16
    many: int = 1000
    mixture_batch: int = 256
    png_side: int = 1024
    pngs: int = 32
    files: int = 128
    workers: int = 2
    counts: tuple[int, ...] = CHESTXRAY.train_counts
    code_steps: int = 300

    @property
    def resized(self) -> int:
        """The side that images are resized to before `side` is cut out: 256 for 224."""
        return self.side * 8 // 7

    @property
    def precisions(self) -> tuple[str, ...]:
        """What `--amp` is measured with, the fastest last."""
        return ("off", "bf16") if has_fast_bfloat16(self.device) else ("off",)


def default_sizes() -> Sizes:
    """Give the sizes for this machine: a GPU gets more of everything, and targets of its own."""
    device = choose_device()
    if device.type == "cpu":
        return Sizes()
    targets, workers = ((180, 1.05, 1.10), (64, 1.10, 1.25), (60, 1.10, 1.25)), usable_cores()
    return Sizes(device, step_targets=targets, steps=20, batches=20, batch=64, files=1920, workers=workers)


def script_args(parser: argparse.ArgumentParser, sizes: Sizes, *flags: str) -> argparse.Namespace:
    """Parse a command line of these sizes; all else is the script's default."""
    model = (f"--arch={sizes.arch}", f"--z-dim={sizes.dim}", f"--new-size={sizes.resized}", f"--crop-size={sizes.side}")
    args, _ = parse(parser, ["ChestXray", "--quiet", "--lr=1e-3", *model, *flags])
    complete(args, feature_dim(args.arch))
    complete_data(args)
    return args


def train_args(sizes: Sizes, *flags: str) -> argparse.Namespace:
    """Parse a command line of train.py."""
    return script_args(train.build_parser(), sizes, *flags)


def next_epoch(run: Run) -> None:
    """End an epoch of a run without measuring or saving anything."""
    run.epoch, run.position = run.epoch + 1, Position()


class ReadyBatches:
    """Stands for a `BatchLoader`: in every step the same batch of random grey images, which costs nothing to load."""

    def __init__(self, sizes: Sizes, images: int, steps: int) -> None:
        self.dataset = range(images * steps)
        self.batches = TrainBatches(images * steps, images, seed=0)
        grey, ids = torch.randint(0, 256, (images, 1, sizes.side, sizes.side), dtype=torch.uint8), torch.arange(images)
        batch = [grey, ids % CLASSES, ids]
        self._batch = [part.pin_memory() for part in batch] if sizes.device.type == "cuda" else batch

    def __iter__(self) -> Iterator[list[Tensor]]:
        return itertools.repeat(self._batch, len(self.batches))


class BareTraining:
    """torchvision's ResNet with a linear layer, cross-entropy and SGD, in the layout of the project's encoder."""

    def __init__(self, sizes: Sizes, amp: str) -> None:
        self.device, self.side, self.amp = sizes.device, sizes.side, amp
        resnet = torchvision.models.get_model(ARCHITECTURES[sizes.arch], weights=None, num_classes=CLASSES)
        self.resnet = resnet.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.resnet.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take the step of a batch (B,3,S,S)."""
        with autocast(self.device, self.amp):
            loss = F.cross_entropy(self.resnet(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def random_images(self, count: int) -> Tensor:
        """Make images (B,3,S,S) on the device, in the network's layout."""
        images = torch.rand(count, 3, self.side, self.side, device=self.device)
        return images.contiguous(memory_format=torch.channels_last)

    def steps(self, count: int, steps: int) -> Callable[[], None]:
        """Make a call that takes steps of so many images each, which lie ready."""
        images, labels = self.random_images(count), torch.arange(count, device=self.device) % CLASSES

        def call() -> None:
            for _ in range(steps):
                self.step(images, labels)

        return call
