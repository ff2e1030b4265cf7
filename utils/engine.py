"""The loops: one epoch of training, and one evaluation."""

import argparse
import itertools
import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.device import autocast
from utils.errors import UserError
from utils.logs import progress
from utils.randomness import Stream, generator

log = logging.getLogger("dgcmm")

TERMS = ("loss", "loss_cls", "loss_reconst", "loss_gmm")


class Predictions(NamedTuple):
    """What an evaluation found, in the order of the data set."""

    indices: np.ndarray  # (N,)
    targets: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N,K)
    components: np.ndarray  # (N,) the most responsible component of the prior


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images (B,C,S,S) -> float32 in [0,1] on `device`."""
    return images.to(device, non_blocking=True).float().div_(255)


def count_steps(loader: Any, args: argparse.Namespace) -> int:
    """Batches of a pass over `loader`: all of them, or `--max-steps` if that is fewer."""
    return min(len(loader), args.max_steps or len(loader))


def train_one_epoch(
    model: nn.Module,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    weights: Any,
    device: torch.device,
    epoch: int,
    args: argparse.Namespace,
) -> dict[str, float | None]:
    """Train for one epoch.

    Args:
        model: called with (images, labels, noise, weights), gives the loss terms; `model.prior` is the prior.
        loader: batches of (images, labels, indices); `loader.batches` is told the epoch.
        weights: of the loss terms in this epoch.
        epoch: its number, from 0; with the seed it fixes order, transforms and noise.

    Returns:
        The mean over the epoch's images of the loss and of each term; None for a term that was not computed.

    Raises:
        UserError: the loss is not finite; no weight has been changed by that step.
    """
    model.train()
    loader.batches.set_epoch(epoch)
    # what is clipped: the prior's gradient is of another scale, the network's norm must not slow it down
    network = [value for name, value in model.named_parameters() if not name.startswith("prior.")]
    steps = count_steps(loader, args)
    totals: dict[str, Tensor] = {}
    seen = 0
    with progress(
        None, f"epoch {epoch + 1}", total=sum(loader.batches.sizes[:steps]), unit="img", quiet=args.quiet
    ) as bar:
        for step, (images, labels, indices) in enumerate(itertools.islice(loader, steps)):
            images, labels = to_device(images, device), labels.to(device, non_blocking=True)
            source = generator(args.seed, Stream.CODE_NOISE, epoch, step, device=device)
            noise = torch.randn(len(images), model.z_dim, generator=source, device=device)
            with autocast(device, args.amp):
                terms = model(images, labels, noise, weights)
            require_finite(terms.total, epoch, step, indices)
            optimizer.zero_grad(set_to_none=True)
            terms.total.backward()
            if args.clip_grad:
                nn.utils.clip_grad_norm_(network, args.clip_grad)
            optimizer.step()
            model.prior.project()
            seen += len(images)
            for name, term in zip(TERMS, terms, strict=True):
                if term is not None:
                    totals[name] = totals.get(name, 0.0) + term.detach().double() * len(images)
            bar.update(len(images))
            if (step + 1) % args.print_freq == 0:
                log.info("epoch %d, step %d/%d: loss %.4f", epoch + 1, step + 1, steps, totals["loss"].item() / seen)
    return {name: totals[name].item() / seen if name in totals else None for name in TERMS}


@torch.inference_mode()
def start_prior(model: nn.Module, loader: Any, device: torch.device, args: argparse.Namespace) -> None:
    """Place the prior's components at the classes' codes: one pass over the training images as they are loaded.

    Without it the mixture collapses: all codes move together in the first steps, the component that moves first is
    soon the nearest one to every code, and takes them all.
    """
    model.eval()
    classes, dim = model.num_classes, model.z_dim
    counts = torch.zeros(classes, dtype=torch.float64, device=device)
    sums, squares = (torch.zeros(classes, dim, dtype=torch.float64, device=device) for _ in range(2))
    steps = count_steps(loader, args)
    with progress(None, "prior", total=sum(loader.batches.sizes[:steps]), unit="img", quiet=args.quiet) as bar:
        for images, labels, _ in itertools.islice(loader, steps):
            labels = labels.to(device)
            with autocast(device, args.amp):
                features = model.features(to_device(images, device))
            mu, log_var = (value.double() for value in model.posterior(features, labels))
            members = nn.functional.one_hot(labels, classes).double()
            counts += members.sum(dim=0)
            sums += members.T @ mu
            squares += members.T @ (mu.square() + log_var.exp())
            bar.update(len(images))
    means = sums / counts.clamp_min(1)[:, None]
    model.prior.start(counts, means, squares / counts.clamp_min(1)[:, None] - means.square())


def require_finite(loss: Tensor, epoch: int, step: int, indices: Tensor) -> None:
    """Raise a `UserError` before a loss that is not finite can reach a weight."""
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1} (images {indices.tolist()[:8]}, ...): lower "
            "--lr or give --clip-grad; the last checkpoint is as it was"
        )


@torch.inference_mode()
def evaluate(
    model: nn.Module, loader: Any, weights: Any, device: torch.device, args: argparse.Namespace
) -> Predictions:
    """Classify every image of `loader` once; codes are the encoder's mean.

    Args:
        weights: of the loss terms, by which a generative model scores the candidate labels.
    """
    model.eval()
    steps = count_steps(loader, args)
    parts: list[tuple[Tensor, ...]] = []
    with progress(None, "evaluation", total=len(loader.batches.indices), unit="img", quiet=args.quiet) as bar:
        for images, labels, indices in itertools.islice(loader, steps):
            images = to_device(images, device)
            with autocast(device, args.amp):
                features, fixed = model.scores(images, weights)
            probabilities = model.probabilities(features, fixed, weights)
            mu, _ = model.posterior(features, probabilities.argmax(dim=1))
            components = model.prior.log_responsibilities(mu).argmax(dim=1)
            parts.append((indices, labels, probabilities.cpu(), components.cpu()))
            bar.update(len(images))
    return Predictions(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
