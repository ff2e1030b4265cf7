"""Whether the generative half of a DGCMM is alive: what its decoder rebuilds, and the components of its prior.

Shapes: B images of one class, C their channels, S side of the image.
"""

import argparse
import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from models.dgcmm import DGCMM
from utils.device import autocast, to_unit_range
from utils.distributed.world import World
from utils.logs import progress

log = logging.getLogger("dgcmm")

# of one class: training images (B',C,S,S) and images to rebuild (B,C,S,S), both uint8, and the labels of these (B,)
ClassImages = tuple[Tensor, Tensor, Tensor]


class Health(NamedTuple):
    """Squared errors of images in [0,1]: means over pixels and channels, over a class's images, and over the classes.

    Attributes:
        mse: of the reconstructions.
        mse_constant: of one grey value for all pixels of all images, the one that has the least.
        mse_class_mean: of the mean of the class's training images.
        images: how many were rebuilt.
    """

    mse: float
    mse_constant: float
    mse_class_mean: float
    images: int


class ClassErrors(NamedTuple):
    """What the images of one class contribute to `Health`: means over pixels, channels and images, and their number."""

    reconstructions: float
    class_mean: float
    value: float  # of a pixel
    square: float
    images: int


@torch.inference_mode()
def measure_health(
    model: DGCMM, classes: Iterable[ClassImages], rounds: int, args: argparse.Namespace, world: World
) -> Health | None:
    """Rebuild images at z = mu under their own labels, class by class. The processes share the classes.

    Args:
        classes: the images of each, those of this process.
        rounds: classes of the process that has the most; no more are taken, nor more than `args.max_steps`.
        args: amp, batch_size and quiet are read too.

    Returns:
        What all processes found, in the main process; None in the others.

    Raises:
        Stopped: by a signal.
    """
    world.broadcast_buffers(model)
    model.eval()
    rounds = min(rounds, args.max_steps or rounds)
    at_once = max(args.batch_size // world.local_size, 1)
    found = []
    with progress("reconstructions", total=rounds, unit="class", quiet=args.quiet) as bar:
        for part in world.in_rounds(classes, rounds):
            found.append(class_errors(model, part, world.device, args.amp, at_once))
            bar.update()
    parts = world.gather_main(found)
    return None if parts is None else summary([part for rank in parts for part in rank])


def class_errors(model: DGCMM, part: ClassImages, device: torch.device, amp: str, at_once: int) -> ClassErrors:
    """Measure the images of one class; the model sees `at_once` of them at a time."""
    examples, images, labels = (tensor.to(device) for tensor in part)
    images = to_unit_range(images, device)
    errors = []
    for some, own in zip(images.split(at_once), labels.split(at_once), strict=True):
        with autocast(device, amp):
            rebuilt = model.reconstructions(some, own)
        errors.append((rebuilt - some).double().square().mean(dim=(1, 2, 3)))
    images, mean = images.double(), to_unit_range(examples, device).double().mean(dim=0)
    means = torch.stack(
        [torch.cat(errors).mean(), (images - mean).square().mean(), images.mean(), images.square().mean()]
    )
    return ClassErrors(*means.tolist(), len(images))


def summary(parts: list[ClassErrors]) -> Health:
    """Average over the classes, in whatever order they come."""

    def mean(name: str) -> float:
        return math.fsum(getattr(part, name) for part in parts) / len(parts)

    # the best constant is the mean value, and what it leaves is the variance
    constant = max(mean("square") - mean("value") ** 2, 0.0)
    return Health(mean("reconstructions"), constant, mean("class_mean"), sum(part.images for part in parts))


def say_health(health: Health, split: str, args: argparse.Namespace) -> None:
    """Say the errors in a line, and warn of a decoder that is no better than a constant; not after a trial."""
    log.info(
        "%d %s images rebuilt: squared error %.4f; a constant grey has %.4f, the class's mean training image %.4f",
        health.images,
        split,
        health.mse,
        health.mse_constant,
        health.mse_class_mean,
    )
    if health.mse >= health.mse_constant and not is_trial(args):
        log.warning(
            "the decoder has learned nothing, its squared error %.4f is not below the %.4f of a constant grey: start "
            "anew with a higher --weight-reconst (now %g) or --lr (%g)",
            health.mse,
            health.mse_constant,
            args.weight_reconst,
            args.lr,
        )


def warn_of_dead_components(live: int | None, classes: int, args: argparse.Namespace) -> None:
    """Warn if fewer than half of the prior's components live: some may die, but then most classes share one.

    Args:
        live: how many do; None where there is no prior or it has not started, or in another than the main process.
        classes: that were measured: those of the other classes need not show that they live.
    """
    if live is None or 2 * live >= classes or not args.weight_gmm or is_trial(args):
        return
    remedy = f"a higher --prior-lr (now {args.prior_lr:g})"
    if args.gmm_assign != "label":
        remedy = f"--gmm-assign=label, or with {remedy}"
    log.warning("only %d of the prior's components live, for %d classes: start anew with %s", live, classes, remedy)


def is_trial(args: argparse.Namespace) -> bool:
    """Tell whether a run is too short for its health to be judged."""
    return bool(args.max_steps) or args.epochs == 1
