"""Training: a step, a whole epoch from files, and the mixture term, over torchvision's ResNet with a linear layer.

The project's side is `train_epoch` of train.py: all three loss terms, the noise, the checks, clipping, SGD, the prior's
limits. The bare side is cross-entropy, backward and SGD.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import train
from datasets.loading import BatchLoader, make_loader
from datasets.splits import load_splits
from models.loading import all_weights, build_model
from models.prior import GaussianMixturePrior
from scripts.benchmarks.reading import ReleaseImages, write_chestxray
from scripts.benchmarks.setup import CLASSES, BareTraining, ReadyBatches, Sizes, next_epoch, train_args
from scripts.benchmarks.timing import Ratio, Side, peak_memory, slowdown
from utils.distributed.world import World
from utils.training.optimisation import build_optimizer
from utils.training.run import Run

EPOCH_TARGET, MIXTURE_TARGET = 1.0, 0.05


def step(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare steps on images that lie ready, in each precision that the device has."""
    for images, *targets in sizes.step_targets:
        for amp, target in zip(sizes.precisions, targets, strict=False):
            yield step_row(sizes, images, amp, target, repeats)


def step_row(sizes: Sizes, images: int, amp: str, target: float, repeats: int) -> Ratio:
    """Compare steps of so many images in one precision; on a GPU the memory is that of the project's side alone."""
    flags = (f"--amp={amp}", *(("--compile",) if sizes.compile else ()))
    count, name = images * sizes.steps, f"step: model / bare, {images} images, {' '.join(flags).replace('=', ' ')}"
    ours = project(sizes, train_args(sizes, *flags), ReadyBatches(sizes, images, sizes.steps))
    memory = peak_memory(ours)
    bare = BareTraining(sizes, amp).steps(images, sizes.steps)
    ratio = slowdown(name, Side(ours, count), Side(bare, count), target, repeats)
    return ratio._replace(memory=memory)


def project(sizes: Sizes, args: argparse.Namespace, loader: BatchLoader | ReadyBatches) -> Callable[[], None]:
    """Make a call that trains another epoch of a DGCMM each time."""
    world = World(sizes.device)
    model = build_model(world, args, CLASSES)
    run = Run("train", args, model, build_optimizer(model, args), None, "test", {}, world)

    def call() -> None:
        train.train_epoch(run, model, loader, all_weights(args))
        next_epoch(run)

    return call


def epoch(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare whole epochs from the same PNG files, with as many workers, in the fastest precision that the device has.

    The bare side reads through a plain DataLoader, with the release's transforms.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_chestxray(Path(folder), sizes)
        amp = sizes.precisions[-1]
        flags = (f"--datadir={folder}", f"--workers={sizes.workers}", f"--batch-size={sizes.batch}", f"--amp={amp}")
        args = train_args(sizes, *flags)
        data = load_splits(args).train
        ours = project(sizes, args, make_loader(World(sizes.device), args, data, train=True))
        plain = DataLoader(
            ReleaseImages(data, sizes.side),
            sizes.batch,
            shuffle=True,
            num_workers=sizes.workers,
            persistent_workers=sizes.workers > 0,
            pin_memory=sizes.device.type == "cuda",
        )
        bare = BareTraining(sizes, args.amp)

        def bare_epoch() -> None:
            for images, labels in plain:
                images = images.to(sizes.device, non_blocking=True, memory_format=torch.channels_last)
                bare.step(images, labels.to(sizes.device, non_blocking=True))

        name = f"epoch: train.py / plain DataLoader, {sizes.workers} workers, --amp {amp}"
        yield slowdown(name, Side(ours, len(data)), Side(bare_epoch, len(data)), EPOCH_TARGET, repeats)


def mixture(sizes: Sizes, repeats: int) -> Iterator[Ratio]:
    """Compare the mixture term with a bare step for as many images, in the fastest precision that the device has."""
    term = mixture_term(sizes.many, sizes.mixture_batch, sizes.dim, sizes.device)
    bare = BareTraining(sizes, sizes.precisions[-1]).steps(sizes.batch, 1)
    name = f"mixture: term, K={sizes.many}, B={sizes.mixture_batch} / bare step"
    yield slowdown(name, Side(term, sizes.mixture_batch), Side(bare, sizes.batch), MIXTURE_TARGET, repeats)


def mixture_term(components: int, batch: int, dim: int, device: torch.device) -> Callable[[], None]:
    """Make a call that computes the mixture term with all its gradients."""
    torch.manual_seed(0)
    prior = GaussianMixturePrior(components, dim).to(device)
    mu, log_var, codes = (torch.randn(batch, dim, device=device, requires_grad=True) for _ in range(3))
    inputs = (mu, log_var, codes, *prior.parameters())

    def call() -> None:
        for value in inputs:
            value.grad = None
        prior.mixture_term(mu, log_var, codes).mean().backward()

    return call
