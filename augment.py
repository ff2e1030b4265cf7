#!/usr/bin/env python3
"""Re-train the classifier of a trained model on codes drawn from the posterior (Case 2).

Every class gets as many codes as the largest one has images, each a fresh draw from its image's posterior:
    python augment.py Digits_LT --logdir=./logs/digits --resume=auto --epochs=20 --lr=1e-2 --T-max=20

The codes are kept beside the trained checkpoint, the new classifier in <logdir>/checkpoint_aug.pth. The same command
continues an unfinished augmentation, and prints the result of a finished one. With --start=adjusted re-training begins
at the trained classifier without the class shares, which prefers no class.
The last line on standard output is a JSON object with the final metrics.
"""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codes import Codes, examine_training_codes, load_or_extract, load_same_splits, take_training_codes
from datasets import DATASETS
from datasets.base import Splits
from datasets.loading import SAMPLERS
from datasets.splits import complete_data, log_images, prepare_data, warn_of_part
from datasets.transforms import TRAIN_TRANSFORMS
from models.classifier import ImageClassifier, subtract_class_shares
from models.encoder import ARCHITECTURES, PLAIN_ARCHITECTURES, feature_dim
from models.loading import all_weights, create_model
from models.losses import COSINE_LOSSES, implied_shares
from models.samplers import PosteriorSampler
from models.scoring import Scorer
from utils.cli.arguments import augment_parser
from utils.cli.common import common_parser
from utils.cli.rules import complete, parse
from utils.device import (
    ROOM_FOR_MODEL,
    available_amp,
    check_device,
    choose_device,
    memory_watched,
    repeat_exactly,
)
from utils.distributed.plan import spare_rank
from utils.distributed.world import World
from utils.errors import UserError, run_script
from utils.figures.make import report
from utils.logs import start_logging
from utils.metrics import Measurement, Predictions, Row, require_finite
from utils.randomness import standard_normal
from utils.streams import print_result
from utils.training.checkpoint import (
    Checkpoint,
    digest,
    forget_weights,
    load_model_state,
)
from utils.training.folder import RunFolder
from utils.training.headline import finish
from utils.training.optimisation import KEPT, build_sgd, calmer, log_rates
from utils.training.record import write_record
from utils.training.resume import (
    description,
    find_trained,
    find_unfinished,
    finished_result,
    same_command,
)
from utils.training.run import Run

log = logging.getLogger("dgcmm")

MakeSampler = Callable[[Codes, int, argparse.Namespace], PosteriorSampler]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of augment.py."""
    common = common_parser(DATASETS, ARCHITECTURES, TRAIN_TRANSFORMS, lr=1e-2)
    return augment_parser(common, prog="augment.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Case 2: codes from the posterior of each class's own images."""
    args, given = parse(build_parser(), argv)
    retrain(args, given, kind="aug", make_sampler=posterior_sampler)


def posterior_sampler(codes: Codes, num_classes: int, args: argparse.Namespace) -> PosteriorSampler:
    """Make the sampler of Case 2 over training codes."""
    return PosteriorSampler(codes["mu"], codes["sigma"], codes["targets"], num_classes, args.seed)


def retrain(
    args: argparse.Namespace, given: set[str], kind: str, make_sampler: MakeSampler, flags: tuple[str, ...] = ()
) -> None:
    """Find out what is to be done, and do it; all that the two augmentations share.

    Args:
        args, given: the parsed command line.
        kind: 'aug' or 'aug_ftl', which is in the names of the files.
        make_sampler: from (training codes, number of classes, args) to a sampler.
        flags: names of the flags that only this augmentation has.

    Raises:
        UserError: what was trained cannot be re-trained so, or is not there.
    """
    start_logging(args.quiet)
    if rank := spare_rank(os.environ):
        log.warning("rank %d has nothing to do: re-training is for one process, rank 0", rank)
        return
    folder = RunFolder(args.logdir, f"_{kind}")
    trained = find_trained(args, given, folder)
    found = find_unfinished(args, given, folder, trained, flags)
    complete(args, feature_dim(args.arch), args.arch in PLAIN_ARCHITECTURES, given)
    complete_data(args)
    if result := finished_result(found and found[0], args.epochs):
        print_result(result)
        return
    check_adjusted_start(args, trained)
    if args.generative and not args.weight_cls:
        raise UserError(
            f"{args.resume} was trained with --generative --weight-cls=0: its scores leave the classifier out, and a "
            "re-training changes nothing else: train with another weight"
        )
    folder.check_place(args.overwrite)
    result = retrain_from(args, given, trained, found, folder, kind, make_sampler)
    report(result, folder, not args.no_figures)


def retrain_from(
    args: argparse.Namespace,
    given: set[str],
    trained: Checkpoint,
    found: tuple[Checkpoint, Path] | None,
    folder: RunFolder,
    kind: str,
    make_sampler: MakeSampler,
) -> Row:
    """Re-train the classifier of a trained model; returns the result.

    Args:
        trained: the model, whose weights are taken out of it.
        found: what an earlier call of the same command has left, and the file it is in.
        folder: where results go.
    """
    unfinished, path = found or (None, folder.checkpoint)
    if args.deterministic:
        repeat_exactly()
    world = World(choose_device(args.gpu))
    if not unfinished and "amp" not in given:
        args.amp = available_amp(args.amp, world.device)
    check_device(world.device, args.amp)
    prepare_data(args, may_be_new="datadir" in given)
    splits, data_sha256 = load_same_splits(args, trained)
    model = load_trained_model(args, trained, splits, world)
    preprocessing = DATASETS[args.dataset].preprocessing(args)
    about = description(args, splits.train.classes, splits.train.class_counts, data_sha256, preprocessing)
    about["prior_started"] = trained.get("prior_started", False)  # for `--init`
    trained_sha256 = digest(trained["state_dict"])
    forget_weights(trained)
    whole = splits
    if args.max_steps:
        splits = splits.spread(args.max_steps * args.batch_size)
    with folder.open(), memory_watched(same_command(args)):
        log_images(splits, args.dataset)
        warn_of_part(args, whole._asdict(), taken=splits._asdict())
        codes = load_or_extract(model, splits, trained_sha256, args, world)
        training = take_training_codes(codes, world.device)
        about |= examine_training_codes(model, training)
        sampler = make_sampler(training, model.num_classes, args)
        batches = plan_batches(sampler, 0, args, world.device)
        if (number := len(batches[0][1])) < args.batch_size:
            log.warning("--batch-size %d: only %d codes an epoch, all in one batch", args.batch_size, number)
        first_loss = measure_first_loss(model, sampler, batches[: args.max_steps], args.seed)
        if args.overwrite:  # not before the images were read: a broken one must not cost an earlier re-training
            folder.make_way()
        write_record(folder, args, data_sha256, unfinished, model=trained)
        optimizer = build_sgd(model.classifier.parameters(), args)
        state = {"trained_sha256": trained_sha256}
        run = Run(kind, args, model, optimizer, folder, splits.measured[0], about, world, state=state)
        if unfinished:
            run.restore(unfinished, path)
            forget_weights(unfinished)
            log.info("continuing after %s", run.reached)
        log_rates(args, run.epoch, unfinished and unfinished["args"]["epochs"])
        return train_epochs(run, sampler, codes, splits, first_loss)


def check_adjusted_start(args: argparse.Namespace, trained: Checkpoint) -> None:
    """Raise a `UserError` if `--start adjusted` finds no bias; warn if training changed the class shares itself."""
    if args.start != "adjusted":
        return
    if args.loss in COSINE_LOSSES:
        raise UserError(
            f"--start adjusted: the classifier of --loss {args.loss} is by the cosine and has no bias: leave it out"
        )
    sampler = trained["args"]["sampler"]
    counts = trained["class_counts"]
    implied, natural = implied_shares(args.loss, counts, SAMPLERS[sampler]), implied_shares("ce", counts, 1.0)
    if not torch.allclose(implied, natural):
        how = f"--sampler {sampler}" if sampler != "instance" else f"--loss {args.loss}"
        log.warning(
            "--start adjusted: %s has balanced the classes already, at least in part: now it is done twice", how
        )


@memory_watched(remedy=ROOM_FOR_MODEL)
def load_trained_model(args: argparse.Namespace, trained: Checkpoint, splits: Splits, world: World) -> ImageClassifier:
    """Build the trained model on the device of `world`, adjusted if `args.start` says so.

    All but its classifier stays as it is.

    Raises:
        UserError: the weights do not fit, or the device has no room for them.
    """
    model = create_model(args, len(splits.train.classes))
    load_model_state(model, trained, args.resume)
    if args.start == "adjusted":
        subtract_class_shares(model.classifier, trained["class_counts"])
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model.to(world.device)


def train_epochs(
    run: Run, sampler: PosteriorSampler, codes: dict[str, Codes], splits: Splits, first_loss: float
) -> Row:
    """Re-train the classifier for the epochs that are left, measuring each; returns the result.

    Args:
        run: at its start, or where it was restored.
        sampler: plans epochs and makes codes.
        codes: of the splits that are measured.
        first_loss: of the classifier before it is re-trained, see `measure_first_loss`.
    """
    data = {run.split: splits.measured[1], "test": splits.test}

    def measure(split: str) -> Measurement:
        predictions = classify(run.model, codes[split], run.args, run.world)
        return Measurement.of(predictions, data[split].ids, data[split].classes, run.about["class_counts"])

    measurement = None
    with run.open():
        while run.epoch < run.args.epochs:
            class_counts = train_epoch(run, sampler)
            losses = {"loss": run.mean_terms()[0]}
            run.warn_of_divergence(losses["loss"], class_counts, first_loss)
            measurement = measure(run.split) if run.is_measured() else None
            run.end_epoch(measurement, losses)
        return finish(run, measure, measurement)


def train_epoch(run: Run, sampler: PosteriorSampler) -> list[int]:
    """Train the steps that are left of the sampler's plan for the running epoch.

    Returns:
        Codes of each class in the whole epoch, (K,).
    """
    args, model = run.args, run.model
    batches = plan_batches(sampler, run.epoch, args, run.world.device)
    sizes = [len(labels) for _, labels in batches]
    model.classifier.train()
    for sources, labels in run.steps(batches[run.position.step :], sizes):
        loss = loss_of(model, sampler, sources, labels, (args.seed, run.epoch, run.position.step))
        run.step([loss], sources)
    return torch.bincount(torch.cat([labels for _, labels in batches])).tolist()


def plan_batches(
    sampler: PosteriorSampler, epoch: int, args: argparse.Namespace, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Cut the sampler's plan for an epoch into batches: sources (B,), labels (B,)."""
    sources, labels = (part.to(device) for part in sampler.plan(epoch))
    return list(zip(sources.split(args.batch_size), labels.split(args.batch_size), strict=True))


def loss_of(
    model: ImageClassifier, sampler: PosteriorSampler, sources: Tensor, labels: Tensor, key: tuple[int, int, int]
) -> Tensor:
    """Compute the mean cross-entropy of a batch of codes, which are a function of the key: seed, epoch, step."""
    noise = standard_normal(len(sources), model.z_dim, *key, sources.device)
    return F.cross_entropy(model.classifier(sampler.codes(sources, labels, noise)), labels)


@torch.inference_mode()
def measure_first_loss(
    model: ImageClassifier, sampler: PosteriorSampler, batches: Sequence[tuple[Tensor, Tensor]], seed: int
) -> float:
    """Measure the classifier before it is re-trained: its mean cross-entropy over the batches of the first epoch."""
    total = sum(
        loss_of(model, sampler, sources, labels, (seed, 0, step)).item() * len(labels)
        for step, (sources, labels) in enumerate(batches)
    )
    return total / sum(len(labels) for _, labels in batches)


@torch.inference_mode()
def classify(model: ImageClassifier, codes: Codes, args: argparse.Namespace, world: World) -> Predictions:
    """Classify the codes of a split, which are mu, or score its images (generative model).

    Returns:
        Predictions in the order of the data set.

    Raises:
        UserError: a probability is not finite.
        Stopped: by a signal.
    """
    model.eval()
    scorer = Scorer(model, all_weights(args))
    device = model.classifier.weight.device
    names = ("features", "fixed") if model.generative else ("mu",)
    parts = []
    for batch in zip(*(codes[name].split(args.batch_size) for name in names), strict=True):
        world.check_stop()
        first, *rest = (rows.to(device) for rows in batch)
        if model.generative:
            probabilities = scorer.probabilities(first, *rest)
            mu, _ = model.posterior(first, probabilities.argmax(dim=1))
        else:
            probabilities, mu = F.softmax(model.classifier(first), dim=1), first
        components = model.responsible_component(mu)
        parts.append((probabilities.cpu().numpy(), components.cpu().numpy()))
    probabilities, components = (np.concatenate(column) for column in zip(*parts, strict=True))
    require_finite([probabilities], f"{calmer(args.clip_grad)}, or give --amp=off; {KEPT}")
    targets = codes["targets"].numpy()
    return Predictions(np.arange(len(targets)), targets, probabilities, components)


if __name__ == "__main__":
    run_script(main)
