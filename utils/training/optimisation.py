"""Optimizer and learning-rate schedule."""

import argparse
import logging
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

from utils.cli.rules import COSINE_FLOOR

log = logging.getLogger("dgcmm")

KEPT = "the last checkpoint is as it was"  # for messages, after what `calmer` says


def build_optimizer(model: nn.Module, args: argparse.Namespace) -> SGD:
    """Build SGD with two groups: the network, and the prior with its own learning rate and no weight decay.

    The mixture term's gradient carries weight_gmm, so at the network's learning rate the prior would hardly move;
    `args.prior_lr` undoes that weight (see `utils.cli.rules.default_prior_lr`). The group of the prior is empty where a
    model has none.
    """
    prior = [value for name, value in model.named_parameters() if name.startswith("prior.")]
    network = [value for name, value in model.named_parameters() if not name.startswith("prior.")]
    groups = [
        {"params": network, "name": "network"},
        {"params": prior, "name": "prior", "lr": args.prior_lr, "weight_decay": 0.0},
    ]
    return build_sgd(groups, args)


def build_sgd(parameters: Iterable[nn.Parameter] | list[dict[str, object]], args: argparse.Namespace) -> SGD:
    """Build SGD over parameters or groups of them, fused: on a GPU it skips a bad step by itself (see `step`)."""
    optimizer = SGD(parameters, lr=args.lr, momentum=args.momentum, weight_decay=args.wd, fused=True)
    optimizer.register_step_pre_hook(_start_momenta)
    return optimizer


def _start_momenta(optimizer: SGD, *_: object) -> None:
    """Create a zero momentum buffer when a parameter gets its first gradient.

    Parts join in after a warm-up; a fused step fails on a group of which only some parameters have a momentum.
    """
    for group in optimizer.param_groups:
        for value in group["params"] if group["momentum"] else ():
            if value.grad is not None and optimizer.state[value].get("momentum_buffer") is None:
                optimizer.state[value]["momentum_buffer"] = torch.zeros_like(value)


def calmer(clip_grad: float, has_prior: bool = False) -> str:
    """Say which flags keep a training from going astray; `clip_grad` is its `--clip-grad`, 0 for none."""
    rates = "--lr, --prior-lr" if has_prior else "--lr"
    return f"lower {rates} or --clip-grad (now {clip_grad:g})" if clip_grad else f"lower {rates}, or give --clip-grad=5"


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: argparse.Namespace, start_rates: Sequence[float], epochs_done: int
) -> "Schedule":
    """Build the schedule of `--lr-step`, `--milestones`, `--T-max` or `--step-size`, stepped per epoch.

    The learning rate is a function of the number of epochs alone, so a resumed run steps a new schedule
    `epochs_done` times, from the groups' `start_rates`, instead of restoring an old one. The cosine rises again after
    T-max. The first `--lr-warmup-epochs` have less, see `LinearWarmup`.
    """
    for group, rate in zip(optimizer.param_groups, start_rates, strict=True):
        group["lr"] = group["initial_lr"] = rate
    if args.T_max is not None:
        scheduler: Schedule = CosineAnnealingLR(optimizer, args.T_max, eta_min=COSINE_FLOOR)
    elif args.milestones is not None:
        scheduler = MultiStepLR(optimizer, args.milestones, args.gamma)
    else:
        scheduler = StepLR(optimizer, args.lr_step or args.step_size, args.gamma)
    if args.lr_warmup_epochs:
        scheduler = LinearWarmup(scheduler, args.lr_warmup_epochs)
    for _ in range(epochs_done):
        step_schedule(scheduler)
    return scheduler


class LinearWarmup:
    """A schedule whose rates are scaled by 1/N, 2/N, ... in its first N epochs, as LDAM-DRW trains CIFAR.

    Args:
        scheduler: goes on as it would alone, so what follows the warm-up is the same as without.
        epochs: N.
    """

    def __init__(self, scheduler: LRScheduler, epochs: int) -> None:
        self.scheduler, self.optimizer = scheduler, scheduler.optimizer
        self.epochs, self.epoch = epochs, 0
        self._scale()

    def step(self) -> None:
        """Set the rates of the next epoch."""
        for group, rate in zip(self.optimizer.param_groups, self._unscaled, strict=True):
            group["lr"] = rate
        self.scheduler.step()
        self.epoch += 1
        self._scale()

    def _scale(self) -> None:
        groups = self.optimizer.param_groups
        self._unscaled = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= min((self.epoch + 1) / self.epochs, 1)


Schedule = LRScheduler | LinearWarmup


def log_rates(args: argparse.Namespace, epochs_done: int, planned: int | None) -> None:
    """Say where the learning rate goes in the epochs that are left: through a warm-up, or if it rises again.

    Args:
        args: of the run.
        epochs_done: after which it starts or goes on.
        planned: epochs that it was to have before; None for a new run.
    """
    longer = planned is not None and args.epochs > planned
    rates, left = _rates(args), range(epochs_done, args.epochs)
    warm = min(args.lr_warmup_epochs, args.epochs)
    rises = [epoch for epoch in left if epoch >= max(warm, 1) and rates[epoch] > rates[epoch - 1]]
    if rises:
        top = max(rises, key=rates.__getitem__)
        log.log(
            logging.WARNING if longer else logging.INFO,
            "--T-max %d of %d epochs: the learning rate rises again from epoch %d on, to %.3g in epoch %d%s",
            args.T_max,
            args.epochs,
            rises[0] + 1,
            rates[top],
            top + 1,
            f"; --T-max={args.epochs} would not" if longer else "",
        )
    elif planned is None and len(rates) > 1 and len(set(rates)) == 1 and (args.lr_step or args.milestones):
        given = f"--lr-step {args.lr_step}" if args.lr_step else f"--milestones {' '.join(map(str, args.milestones))}"
        log.warning("%s of %d epochs: the learning rate stays %g", given, args.epochs, args.lr)
    elif left and (longer or epochs_done < warm):
        ends = sorted({left[0], left[-1]} | ({warm - 1} if epochs_done < warm else set()))
        log.info("learning rate %s", ", ".join(f"{rates[epoch]:.3g} in epoch {epoch + 1}" for epoch in ends))


def _rates(args: argparse.Namespace) -> list[float]:
    """List the network's learning rate of every epoch."""
    optimizer = SGD([torch.zeros(())], lr=args.lr)
    scheduler = build_scheduler(optimizer, args, [args.lr], 0)
    rates = []
    for _ in range(args.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        step_schedule(scheduler)
    return rates


def step_schedule(scheduler: Schedule) -> None:
    """Step the schedule; it need not know that the optimizer's steps were taken by a process before this one.

    A rate of 0 stays 0: the cosine would lift it to its floor.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()
    for group in scheduler.optimizer.param_groups:
        if not group["initial_lr"]:
            group["lr"] = 0.0
