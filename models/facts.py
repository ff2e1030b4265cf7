"""What follows from the arguments of a run, said once at its start."""

import logging

from models.losses import BALANCING_LOSSES
from utils.training.optimisation import log_rates
from utils.training.run import Run

log = logging.getLogger("dgcmm")


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
