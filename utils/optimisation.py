"""Optimizer and learning-rate schedule."""

import argparse
import warnings
from collections.abc import Sequence

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

COSINE_FLOOR = 1e-5


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace) -> SGD:
    """SGD with two groups: the network, and the mixture prior without weight decay and with its own learning rate.

    The mixture term's gradient carries weight_gmm, so at the network's learning rate the prior would hardly move;
    `args.prior_lr` undoes that weight (see `default_prior_lr`). On a GPU the optimizer is a fused one, which can skip
    a step that is not finite without the host knowing (see `utils.guard`).
    """
    prior = [value for name, value in model.named_parameters() if name.startswith("prior.")]
    network = [value for name, value in model.named_parameters() if not name.startswith("prior.")]
    groups = [
        {"params": network, "name": "network"},
        {"params": prior, "name": "prior", "lr": args.prior_lr, "weight_decay": 0.0},
    ]
    fused = True if network[0].is_cuda else None
    return SGD(groups, lr=args.lr, momentum=args.momentum, weight_decay=args.wd, fused=fused)


def default_prior_lr(lr: float, weight_gmm: float) -> float:
    """lr / weight_gmm; lr where the mixture term is not computed."""
    return lr / weight_gmm if weight_gmm else lr


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: argparse.Namespace, start_rates: Sequence[float], epochs_done: int
) -> LRScheduler:
    """The schedule of `--lr-step`, `--milestones`, `--T-max` or `--step-size`, stepped per epoch.

    The learning rate is a function of the number of epochs alone, so a resumed run steps a new schedule
    `epochs_done` times, from the groups' `start_rates`, instead of restoring an old one. The cosine rises again after
    T-max.
    """
    for group, rate in zip(optimizer.param_groups, start_rates, strict=True):
        group["lr"] = group["initial_lr"] = rate
    if args.T_max is not None:
        scheduler: LRScheduler = CosineAnnealingLR(optimizer, args.T_max, eta_min=COSINE_FLOOR)
    elif args.milestones is not None:
        scheduler = MultiStepLR(optimizer, args.milestones, args.gamma)
    else:
        scheduler = StepLR(optimizer, args.lr_step or args.step_size, args.gamma)
    for _ in range(epochs_done):
        end_epoch(scheduler)
    return scheduler


def end_epoch(scheduler: LRScheduler) -> None:
    """Step the schedule; it need not know that the optimizer's steps were taken by a process before this one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()
