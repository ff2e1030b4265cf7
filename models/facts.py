"""What follows from the arguments of a run, said once at its start."""

import argparse
import logging
from collections.abc import Mapping, Sized

from models.losses import BALANCING_LOSSES
from utils.training.optimisation import log_rates
from utils.training.run import Run

log = logging.getLogger("dgcmm")


Parts = Mapping[str, Sized | None]  # the images of each split


def warn_of_part(args: argparse.Namespace, parts: Parts, nodes: int = 1, taken: Parts | None = None) -> None:
    """Warn if `--max-steps`, which a run that is continued still has, leaves images of the measured splits out.

    Args:
        args: max_steps and batch_size are read.
        parts: all images; splits other than 'val' and 'test' are not measured.
        nodes: each takes `--batch-size` images a step.
        taken: the images that are measured, where they have been chosen; None for the first steps of each split.
    """
    for split in ("val", "test") if args.max_steps else ():
        there = len(parts.get(split) or ())
        measured = args.max_steps * args.batch_size * nodes if taken is None else len(taken[split] or ())
        if measured < there:
            log.warning("--max-steps %d: %d of %d %s images are measured", args.max_steps, measured, there, split)


def log_facts(run: Run, training_images: int, steps: int, planned: int | None) -> None:
    """Say how large the model and a step are, at which rates it learns, and where the run goes on.

    Args:
        training_images: how many an epoch can draw from.
        steps: of an epoch.
        planned: epochs that the run was to have before it is continued; None for a new one.
    """
    args, world = run.args, run.world
    images, continued = args.batch_size * world.nodes, planned is not None
    if training_images < images:
        log.warning("--batch-size %d: only %d training images, all in one batch", args.batch_size, training_images)
    if args.freeze_encoder and not (args.init or args.pretrained or continued):
        log.warning("--freeze-encoder: the encoder stays as it was drawn at random: give --init or --pretrained")
    if not (args.weight_cls or args.generative):
        log.warning("--weight-cls 0: the classifier is not trained, and what is measured of it means nothing")
    if args.sampler != "instance" and args.loss in BALANCING_LOSSES:
        log.warning(
            "--sampler %s and --loss %s both balance the classes: small ones count twice", args.sampler, args.loss
        )
    millions = sum(parameter.numel() for parameter in run.model.parameters()) / 1e6
    log.info("%s: %.1f million parameters on %s, amp %s", args.arch, millions, world.device, args.amp)
    if world.size > 1:
        log.info("%d processes on %d node(s), %d images a step each", world.size, world.nodes, images // world.size)
    rates = f"learning rate {args.lr:g}" + (f", prior {args.prior_lr:g}" if run.model.prior is not None else "")
    log.info("%d steps of %d images an epoch, %s", min(steps, args.max_steps or steps), images, rates)
    if (first := run.state.get("reweighted_from", args.epochs)) < args.epochs:
        log.info("classes are re-weighted after epoch %d", first)
    elif args.loss == "ldam-drw":
        log.warning("--loss ldam-drw: in %d epochs no class is re-weighted: that is LDAM, give more", args.epochs)
    if args.warmup_epochs >= args.epochs and args.warmup_threshold is None:
        log.warning("--warmup-epochs %d of %d: decoder and prior are not trained", args.warmup_epochs, args.epochs)
    if continued:
        log.info("continuing after %s", run.reached)
    log_rates(args, run.epoch, planned)
