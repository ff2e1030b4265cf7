"""The loops: one epoch of training, and one evaluation."""

import argparse
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from utils.device import autocast
from utils.distributed.world import World
from utils.errors import UserError
from utils.logs import progress
from utils.training.noise import draw
from utils.training.step import Guard

log = logging.getLogger("dgcmm")

TERMS = ("loss", "loss_cls", "loss_reconst", "loss_gmm")


class Predictions(NamedTuple):
    """What an evaluation found, in the order of the data set."""

    indices: np.ndarray  # (N,)
    targets: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N,K)
    components: np.ndarray  # (N,) the most responsible component of the prior


class Pass(NamedTuple):
    """What a forward pass gives."""

    terms: list[Tensor]  # the loss, and what it consists of: scalars
    ids: Tensor  # (B,) which samples it was made of, for messages


@dataclass
class Position:
    """How far an epoch is: what resuming within it needs besides weights and optimizer.

    Attributes:
        step: steps done.
        seen: samples that this process has trained on.
        totals: sums over them of the loss and of each of its terms; float64, as plain numbers.
    """

    step: int = 0
    seen: int = 0
    totals: tuple[float, ...] = (0.0,)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images (B,C,S,S) -> in [0,1] on `device`, of torch's default type (float32)."""
    return images.to(device, non_blocking=True).to(torch.get_default_dtype()).div_(255)


def count_steps(loader: Any, args: argparse.Namespace) -> int:
    """Batches of a pass over `loader`: all of them, or `--max-steps` if that is fewer."""
    return min(len(loader.batches), args.max_steps or len(loader.batches))


def take_steps(
    passes: Iterable[Pass],
    sizes: Sequence[int],
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    position: Position,
    args: argparse.Namespace,
    world: World,
    after_step: Callable[[], None] | None = None,
    scaler: GradScaler | None = None,
) -> Iterator[int]:
    """Train from `position` to the end of an epoch: a backward pass and an optimizer step for each forward pass.

    Args:
        passes: the forward passes that are left; each is made when it is asked for.
        sizes: samples of each step of the whole epoch, in all processes.
        trained: has the parameters; of a DGCMM the prior's are not clipped.
        epoch: its number, from 0.
        position: kept up to date at each yield and at the end.
        after_step: called after each optimizer step.
        scaler: of the loss in float16.

    Yields:
        Where the run may be saved (every `--save-every` steps) or has to stop: 0, or the signal that says so, the
        same in all processes.

    Raises:
        UserError: a loss or a gradient is not finite, in any process; no weight has been changed by that step.
    """
    guard = Guard(trained, optimizer, args.clip_grad, epoch, world, scaler)
    totals = torch.tensor(position.totals, dtype=torch.float64, device=world.device)
    with progress(
        *(None, f"epoch {epoch + 1}"),
        **{"total": sum(sizes), "initial": sum(sizes[: position.step]), "unit": "img", "quiet": args.quiet},
    ) as bar:
        for terms, ids in passes:
            guard.begin(terms[0], position.step, ids)
            optimizer.zero_grad(set_to_none=True)
            guard.backward(terms[0])
            signum = guard.step()
            if after_step:
                after_step()
            totals = totals + torch.stack([term.detach() for term in terms]).double() * len(ids)
            position.step += 1
            position.seen += len(ids)
            bar.update(sizes[position.step - 1])
            if position.step % args.print_freq == 0:
                mean = totals[0].item() / position.seen
                log.info("epoch %d, step %d/%d: loss %.4f", epoch + 1, position.step, len(sizes), mean)
            if signum or (args.save_every and position.step % args.save_every == 0 and position.step < len(sizes)):
                guard.settle()
                position.totals = tuple(totals.tolist())
                yield signum
        guard.settle()
        position.totals = tuple(totals.tolist())


def forward_passes(
    module: nn.Module, loader: Any, weights: Any, epoch: int, position: Position, args: argparse.Namespace, world: World
) -> Iterator[Pass]:
    """The forward passes of an epoch of training from `position` on.

    Args:
        module: the DGCMM, or DistributedDataParallel around it: called with (images, labels, noise, weights) it gives
            the loss terms.
        loader: batches of (images, labels, indices); `loader.batches` is told where to begin.
        weights: of the loss terms in this epoch.
        epoch: its number, from 0; with the seed it fixes order, transforms and noise.
    """
    model = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
    module.train()
    loader.batches.set_epoch(epoch, position.step)
    steps = range(position.step, count_steps(loader, args))
    for step, (images, labels, indices) in zip(steps, loader, strict=False):
        images, labels = to_device(images, world.device), labels.to(world.device, non_blocking=True)
        noise = global_noise(loader.batches.sizes[step], model.z_dim, epoch, step, args, world)
        with autocast(world.device, args.amp):
            terms = module(images, labels, noise, weights)
        yield Pass([terms.total.new_zeros(()) if term is None else term for term in terms], indices)


def global_noise(count: int, dim: int, epoch: int, step: int, args: argparse.Namespace, world: World) -> Tensor:
    """This process's rows of the standard normal noise of a step, which is drawn for the batch of all processes.

    Args:
        count: images of the step in all processes.
        dim: length D of a code.

    Returns:
        (count / processes, D); image i of the batch belongs to process i modulo their number.
    """
    return draw(count, dim, args.seed, epoch, step, world.device)[world.rank :: world.size]


def mean_losses(position: Position, weights: Any, world: World) -> dict[str, float | None]:
    """The mean of an epoch over the images of all processes; None for a term that was not computed."""
    parts = world.gather((position.seen, position.totals))
    seen = sum(part[0] for part in parts)
    computed = (True, *(bool(weight) for weight in weights))
    sums = [sum(part[1][i] for part in parts) for i in range(len(TERMS))]
    return {name: sums[i] / seen if computed[i] else None for i, name in enumerate(TERMS)}


def warn_of_divergence(
    cross_entropy: float | None, class_counts: Sequence[int], epoch: int, args: argparse.Namespace
) -> None:
    """Warn if an epoch's mean cross-entropy is above twice that of guessing every class by its share.

    Args:
        cross_entropy: in nats; None if it was not computed.
        class_counts: images or codes of each class that the epoch trained on, (K,).
        epoch: its number, from 0.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    guessing = torch.special.entr(counts / counts.sum()).sum().item()  # mean of -log p_y with p the class shares
    if cross_entropy is None or cross_entropy <= 2 * guessing:
        return
    remedy = f"lower --lr or --clip-grad (now {args.clip_grad:g})" if args.clip_grad else "give --clip-grad=5"
    log.warning(
        "epoch %d diverged: its mean cross-entropy is %.2f, guessing by class shares has %.2f; start anew and %s",
        *(epoch + 1, cross_entropy, guessing, remedy),
    )


@torch.inference_mode()
def start_prior(model: nn.Module, loader: Any, epoch: int, args: argparse.Namespace, world: World) -> None:
    """Place the prior's components at the classes' codes: one pass over the training images as `epoch` loads them.

    Without it the mixture collapses: all codes move together in the first steps, the component that moves first is
    soon the nearest one to every code, and takes them all.

    Raises:
        Stopped: by a signal, before anything was changed.
    """
    world.share_buffers(model)
    model.eval()
    loader.batches.set_epoch(epoch)
    classes, dim = model.num_classes, model.z_dim
    counts = torch.zeros(classes, dtype=torch.float64, device=world.device)
    sums, squares = (torch.zeros(classes, dim, dtype=torch.float64, device=world.device) for _ in range(2))
    steps = count_steps(loader, args)
    with progress(None, "prior", total=sum(loader.batches.sizes[:steps]), unit="img", quiet=args.quiet) as bar:
        for images, labels, _ in itertools.islice(loader, steps):
            world.check_stop()
            labels = labels.to(world.device)
            with autocast(world.device, args.amp):
                features = model.features(to_device(images, world.device))
            mu, log_var = (value.double() for value in model.posterior(features, labels))
            members = nn.functional.one_hot(labels, classes).double()
            counts += members.sum(dim=0)
            sums += members.T @ mu
            squares += members.T @ (mu.square() + log_var.exp())
            bar.update(len(images) * world.size)
    world.sum(counts, sums, squares)
    means = sums / counts.clamp_min(1)[:, None]
    model.prior.start(counts, means, squares / counts.clamp_min(1)[:, None] - means.square())


def require_finite(probabilities: list[np.ndarray], world: World) -> None:
    """Raise a `UserError`, in all processes, if a class probability is not finite in any of them.

    A step's loss tells of the weights before it: what the last step of an epoch has done shows here.
    """
    with world.together():
        if not all(np.isfinite(part).all() for part in probabilities):
            raise UserError(
                "the model's probabilities are not finite: the last steps went astray; lower --lr, --prior-lr "
                "or --clip-grad; the last checkpoint is as it was"
            )


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Any, weights: Any, args: argparse.Namespace, world: World) -> Predictions | None:
    """Classify every image of `loader` once; codes are the encoder's mean. The processes share the images.

    Args:
        weights: of the loss terms, by which a generative model scores the candidate labels.

    Returns:
        What all processes found, in the main process; None in the others.

    Raises:
        Stopped: by a signal.
    """
    world.share_buffers(model)
    model.eval()
    scorer = model.scorer(weights)
    parts: list[tuple[np.ndarray, ...]] = []
    steps = min(loader.batches.rounds, args.max_steps or loader.batches.rounds)
    batches = itertools.chain(loader, itertools.repeat(None))  # a process may have a batch less than another
    with progress(None, "evaluation", total=loader.batches.count, unit="img", quiet=args.quiet) as bar:
        for batch in itertools.islice(batches, steps):
            world.check_stop()
            if batch is None:
                continue
            images, labels, indices = batch
            images = to_device(images, world.device)
            with autocast(world.device, args.amp):
                features, fixed = scorer.evidence(images)
            probabilities = scorer.probabilities(features, fixed)
            mu, _ = model.posterior(features, probabilities.argmax(dim=1))
            components = model.prior.log_responsibilities(mu).argmax(dim=1)
            parts.append(tuple(value.cpu().numpy() for value in (indices, labels, probabilities, components)))
            bar.update(len(images) * world.size)
    require_finite([probabilities for _, _, probabilities, _ in parts], world)
    found = world.gather_main(parts)
    if found is None:
        return None
    columns = [np.concatenate(column) for column in zip(*(part for rank in found for part in rank), strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Predictions(*(column[order] for column in columns))
