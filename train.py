#!/usr/bin/env python3
"""Train a Deep Generative Mixture Model, or measure a trained one.

Digits, no download, any machine:
    python train.py Digits_LT --logdir=./logs/digits --arch=resnet18_vae3 --new-size=32 --crop-size=32 \\
      --epochs=12 --batch-size=32 --lr=2e-2 --T-max=12 --weight-reconst=100 --gmm-assign=label

Continue it after an interruption, or print its result when it has finished:
    python train.py Digits_LT --logdir=./logs/digits --resume=auto

Measure its checkpoint on the test set:
    python train.py Digits_LT --logdir=./logs/digits --resume=./logs/digits/checkpoint.pth --evaluate

Two GPUs of this machine (without CUDA: two processes):
    python train.py Digits_LT --logdir=./logs/two --arch=resnet18_vae3 --new-size=32 --crop-size=32 \\
      --epochs=12 --batch-size=32 --lr=2e-2 --T-max=12 --weight-reconst=100 --gmm-assign=label \\
      --multiprocessing-distributed --ngpus=2

The last line on standard output is a JSON object with the final metrics.
"""

import argparse
import contextlib
import copy
import logging
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler

from codes import examine_codes
from datasets import DATASETS
from datasets.loading import SAMPLERS, BatchLoader, ClassPairs, make_loader, shared_batches
from datasets.splits import (
    complete_data,
    load_splits,
    load_test,
    log_images,
    prepare_data,
    preprocessing_of,
    warn_of_part,
)
from datasets.transforms import TRAIN_TRANSFORMS
from models.classifier import ImageClassifier
from models.encoder import ARCHITECTURES, PLAIN_ARCHITECTURES, feature_dim, fetch_pretrained
from models.facts import log_facts
from models.health import measure_health, say_health, warn_of_dead_components
from models.loading import all_weights, build_model
from models.losses import LIKELIHOOD_LOSSES, LOSSES, LossWeights, build_loss, first_reweighted_epoch
from models.mixup import mix
from models.pictures import keep_pictures, show_reconstructions
from models.scoring import Scorer
from models.starting import start_prior, take_weights
from utils.cli.arguments import train_parser
from utils.cli.common import common_parser
from utils.cli.rules import check_start, check_training, complete, follow, parse
from utils.device import (
    autocast,
    available_amp,
    check_device,
    memory_watched,
    repeat_exactly,
    require_compiler,
    to_unit_range,
)
from utils.distributed.launch import launch
from utils.distributed.plan import check_batch_size, plan_launch
from utils.distributed.world import World
from utils.errors import UserError, run_script
from utils.figures.make import report
from utils.logs import said_so_far, share_warnings, start_logging
from utils.metrics import NO_REDUCTION, Measurement, Predictions, Row, require_finite
from utils.randomness import mixing_share, standard_normal
from utils.training.checkpoint import Checkpoint, forget_weights, load_checkpoint, load_model_state
from utils.training.folder import RunFolder
from utils.training.headline import finish
from utils.training.optimisation import KEPT, build_optimizer, calmer
from utils.training.record import write_record
from utils.training.resume import (
    description,
    find_checkpoint,
    finished_result,
    goes_back,
    require_same_classes,
    require_same_data,
)
from utils.training.run import Run

log = logging.getLogger("dgcmm")

CLASS_IMAGES = 100  # of each class that show whether the decoder lives, and as many training images
TERMS = ("loss", *(f"loss_{name}" for name in LossWeights._fields))


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of train.py."""
    common = common_parser(DATASETS, ARCHITECTURES, TRAIN_TRANSFORMS, lr=5e-3)
    return train_parser(common, LOSSES, SAMPLERS, prog="train.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check the flags, then train or evaluate, in as many processes as are asked for."""
    args, given = parse(build_parser(), argv)
    check_start(args)
    plan = plan_launch(args, os.environ)
    if not args.resume:  # else flags that are not given come from the checkpoint
        complete_and_check(copy.copy(args), given, plan.local_size)  # before any process starts; `work` completes them
    start_logging(args.quiet, plan.first_rank)
    launch(plan, args.gpu, work, args, given)


def complete_and_check(args: argparse.Namespace, given: set[str], processes: int) -> None:
    """Fill in what one argument leaves to another; raise a `UserError` where they contradict each other."""
    complete(args, feature_dim(args.arch), args.arch in PLAIN_ARCHITECTURES, given)
    complete_data(args)
    check_training(args, given)
    if not args.evaluate:
        check_batch_size(args, processes)


def work(world: World, args: argparse.Namespace, given: set[str]) -> None:
    """Do all that one process does; `args` are as they were parsed."""
    if world.size > 1:
        start_logging(args.quiet, world.rank, said_so_far())
    folder = RunFolder(args.logdir, "_eval" if args.evaluate else "")
    # the main process reads the checkpoint and completes its arguments; the others, started alike, take both from it
    resolved, checkpoint, start = world.on_main(lambda: resolve(copy.copy(args), given, folder, world))
    with world.errors_together():
        follow(args, given, world.broadcast(args), resolved, world.rank)
    args.resume = resolved.resume
    args.quiet |= not world.is_main
    if args.deterministic:
        repeat_exactly()
    result = None
    if not args.evaluate and not goes_back(args, checkpoint):
        result = finished_result(checkpoint, args.epochs)
    figures = not result and not args.no_figures
    if not result:
        world.on_main(lambda: folder.check_place(args.overwrite))
        if args.evaluate and "amp" not in given:
            args.amp = available_amp(args.amp, world.device)
        with world.errors_together():
            check_device(world.device, args.amp, args.sync_bn)
            if args.compile:
                require_compiler(world.device)
        if args.pretrained and checkpoint is None:
            world.on_each_node(lambda: fetch_pretrained(ARCHITECTURES[args.arch]))
        world.on_each_node(lambda: prepare_data(args, may_be_new="datadir" in given or not args.resume))
        with memory_watched("" if args.evaluate else "--resume=auto"):
            if args.evaluate:
                result = evaluate_only(world, args, checkpoint, folder)
            else:
                result = train(world, args, checkpoint, folder, start)
    world.leave()  # figures may take longer than the others would wait
    if world.is_main:
        report(result, folder, figures)


def resolve(
    args: argparse.Namespace, given: set[str], folder: RunFolder, world: World
) -> tuple[argparse.Namespace, Checkpoint | None, Checkpoint | None]:
    """Find the checkpoint to continue or to measure, if any; complete and check the arguments with its flags.

    Returns:
        The arguments, that checkpoint, and for a new run the one that `--init` names.
    """
    checkpoint = find_checkpoint(args, given, folder, world.nodes)
    complete_and_check(args, given, world.local_size)
    if args.evaluate and DATASETS[args.dataset].classes:  # before anything is downloaded
        require_same_classes(checkpoint, DATASETS[args.dataset].classes, args.resume)
    start = load_checkpoint(Path(args.init)) if args.init and checkpoint is None else None
    if start and ARCHITECTURES.get(start["arch"]) != ARCHITECTURES[args.arch]:
        raise UserError(f"--init {args.init} has the encoder of {start['arch']}, not of {args.arch}: give that --arch")
    return args, checkpoint, start


def train(
    world: World, args: argparse.Namespace, checkpoint: Checkpoint | None, folder: RunFolder, start: Checkpoint | None
) -> Row:
    """Start a training run, with the weights of `start` if given, or continue `checkpoint`'s; returns its result."""
    splits = world.on_each_node_first(lambda: load_splits(args))
    data_sha256 = splits.fingerprints()
    main_sha256 = world.broadcast(data_sha256)
    with world.errors_together():  # before a run is overwritten
        require_same_data(main_sha256, data_sha256, "rank 0")
    with world.errors_together():
        if checkpoint:
            require_same_classes(checkpoint, splits.train.classes, args.resume)
        model = build_model(world, args, len(splits.train.classes), args.pretrained and checkpoint is None)
        loaders = {
            "train": make_loader(world, args, splits.train, train=True),
            "test": make_loader(world, args, splits.test),
        }
        if splits.val is not None:
            loaders["val"] = make_loader(world, args, splits.val)
        split, _ = splits.measured
        preprocessing = DATASETS[args.dataset].preprocessing(args)
        about = description(args, splits.train.classes, splits.train.class_counts, data_sha256, preprocessing)
        scaler = GradScaler(world.device.type) if args.amp == "fp16" else None
        state = {"warmup_end": args.warmup_epochs, "prior_started": False}
        if args.loss == "ldam-drw":
            state["reweighted_from"] = first_reweighted_epoch(args.epochs)  # stays, however many epochs follow
        optimizer = build_optimizer(model, args)
        run = Run("train", args, model, optimizer, folder, split, about, world, state=state, scaler=scaler)
        if checkpoint:
            require_same_data(checkpoint["data_sha256"], data_sha256, args.resume, args.bad_images == "skip")
            run.restore(checkpoint, Path(args.resume))
            forget_weights(checkpoint)
        if goes_back(args, checkpoint):
            run.go_back_to(args.start_epoch)
        if world.is_main:
            folder.open(overwrite=args.overwrite)
    with folder:
        if world.is_main:
            write_record(folder, args, data_sha256, checkpoint, world.size, world.nodes)
            folder.write_subset(splits.train.rows)
            log_images(splits, args.dataset)
            warn_of_part(args, splits._asdict(), world.nodes)
            planned = checkpoint and checkpoint["args"]["epochs"]
            log_facts(run, len(splits.train), len(loaders["train"]), planned)
        if start:
            take_weights(run, start)
            forget_weights(start)
        if args.initial_sigma and not checkpoint:
            model.start_spread(args.initial_sigma)
        if args.prior_variance:
            model.prior.bound_variances(*args.prior_variance)
        share_warnings(world.gather, world.is_main)
        result = train_epochs(run, loaders)
        for loader in loaders.values():
            loader.close()
        warn_of_dead_components(result.get("live_components"), np.count_nonzero(splits.test.class_counts), args)
        return result


def train_epochs(run: Run, loaders: dict[str, BatchLoader]) -> Row:
    """Train the epochs that are left, measuring each; returns the result.

    Args:
        run: at its start, or where it was restored.
        loaders: of the splits 'train', `run.split` and 'test'.
    """
    args, world = run.args, run.world

    def measure(split: str) -> Measurement | None:
        return evaluate(run.model, loaders[split], args, world, run.about["class_counts"])

    module, phase, measurement = None, None, None
    with run.open():
        while run.epoch < args.epochs:
            warming = run.epoch < run.state["warmup_end"]
            weights = LossWeights(args.weight_cls) if warming else all_weights(args)
            reweighted = run.epoch >= run.state.get("reweighted_from", args.epochs)
            if (weights, reweighted) != phase:  # another loss, and other parameters may ask for gradients
                phase = (weights, reweighted)
                criterion = build_loss(args.loss, run.about["class_counts"], reweighted, world.mean)
                run.model.criterion = criterion.to(world.device)
                run.model.train_under(weights)
                module = world.parallel(run.model)
            first_loss = train_epoch(run, module, loaders["train"], weights)
            losses = mean_losses(run, weights)
            if args.loss in LIKELIHOOD_LOSSES:
                drawn = [count ** SAMPLERS[args.sampler] for count in run.about["class_counts"]]
                run.warn_of_divergence(losses["loss_cls"], drawn, first_loss)
            if weights.gmm and not run.state["prior_started"]:
                loaders["train"].batches.set_epoch(run.epoch)
                start_prior(run, loaders["train"], loaders["train"].batches.sizes)
            if warming and args.warmup_threshold is not None and losses["loss_cls"] < args.warmup_threshold:
                run.state["warmup_end"] = run.epoch + 1
                log.info("warm-up ends early after epoch %d: loss %.4f", run.epoch + 1, losses["loss_cls"])
            measurement = measure(run.split) if run.is_measured() else None
            if measurement is not None and weights.reconst:
                show_reconstructions(run, loaders[run.split].dataset)
            run.end_epoch(measurement, losses)
        if args.weight_reconst and run.state["warmup_end"] < args.epochs:
            examine_decoder(run, loaders)
            if world.is_main:
                keep_pictures(run, loaders["test"].dataset)
        if world.is_main and args.warmup_threshold is not None and run.state["warmup_end"] >= args.epochs:
            text = "the warm-up took all epochs, see --warmup-threshold %g: decoder and prior are not trained"
            log.warning(text, args.warmup_threshold)
        train_images, transform = loaders["train"].dataset, loaders["test"].dataset.transform
        return finish(run, measure, measurement, partial(examine_codes, run, train_images, transform))


def examine_decoder(run: Run, loaders: dict[str, BatchLoader]) -> None:
    """Measure, say and keep in health.json what the decoder rebuilds of some images of the split that is measured.

    With a hold-out that is the last epoch on the validation images: `--weight-reconst` may be chosen by it.
    """
    args, world = run.args, run.world
    train, measured = loaders["train"].dataset, loaders[run.split].dataset
    pin_memory = world.device.type == "cuda"
    pairs = ClassPairs(train, measured, CLASS_IMAGES, world.rank, world.size, loaders["train"].workers, pin_memory)
    health = measure_health(run.model, pairs, pairs.rounds, args, world)
    if health is not None:
        run.folder.write_health({"epoch": run.epoch, "split": run.split, **health._asdict()})
        say_health(health, run.split, args)


def train_epoch(run: Run, module: nn.Module, loader: BatchLoader, weights: LossWeights) -> float:
    """Train the steps that are left of the running epoch.

    Args:
        module: the model as `World.parallel` gave it.
        loader: batches of images (B,C,S,S) uint8, labels (B,) and ids (B,).
        weights: of the loss terms.

    Returns:
        The classification term before the first step of a run, where its first epoch begins here; inf where that had
        been begun before; 0 of later epochs.
    """
    # of an epoch that was interrupted its first loss is not known, and whether it diverged is not judged
    first_loss = math.inf if run.epoch == 0 and run.position.step else 0.0
    args, world, model = run.args, run.world, run.model
    module.train()
    loader.batches.set_epoch(run.epoch, run.position.step)
    for images, labels, ids in run.steps(loader, loader.batches.sizes):
        images, labels = to_unit_range(images, world.device), labels.to(world.device, non_blocking=True)
        # the noise is drawn for the batch of all processes, and each takes its rows
        step = run.position.step
        noise = standard_normal(loader.batches.sizes[step], model.z_dim, args.seed, run.epoch, step, world.device)
        noise = noise[world.rank :: world.size]
        mixed = None
        if args.mixup:
            images, mixed = mix(images, labels, mixing_share(args.mixup, args.seed, run.epoch, step))
        with autocast(world.device, args.amp):
            terms = module(images, labels, noise, weights, mixed)
        if run.epoch == step == 0 and terms[1] is not None:
            first_loss = world.mean(terms[1].detach()).item()
        run.step(terms, ids)
        if model.prior is not None:
            model.prior.project()
    return first_loss


def mean_losses(run: Run, weights: LossWeights) -> dict[str, float | None]:
    """Return the mean of each term over the epoch's images of all processes; None for one that was not computed."""
    computed = (True, *map(bool, weights))
    return {name: mean if used else None for name, mean, used in zip(TERMS, run.mean_terms(), computed, strict=True)}


@torch.inference_mode()
def evaluate(
    model: ImageClassifier, loader: BatchLoader, args: argparse.Namespace, world: World, train_counts: Sequence[int]
) -> Measurement | None:
    """Classify every image of `loader` once; codes are the encoder's mean. The processes share the images.

    Args:
        train_counts: training images per class, (K,).

    Returns:
        What all processes found, in the main process; None in the others.

    Raises:
        UserError: a probability is not finite.
        Stopped: by a signal.
    """
    world.broadcast_buffers(model)
    model.eval()
    scorer = Scorer(model, all_weights(args))
    parts: list[tuple[np.ndarray, ...]] = []
    for images, labels, indices in shared_batches(loader, args, world, "evaluation"):
        with autocast(world.device, args.amp):
            features, fixed = scorer.evidence(to_unit_range(images, world.device))
        probabilities = scorer.probabilities(features, fixed)
        mu, _ = model.posterior(features, probabilities.argmax(dim=1))
        components = model.responsible_component(mu)
        parts.append(tuple(value.cpu().numpy() for value in (indices, labels, probabilities, components)))
    with world.errors_together():
        remedy = NO_REDUCTION
        if not args.evaluate:
            remedy = f"the last steps went astray; {calmer(args.clip_grad, model.prior is not None)}; {KEPT}"
        require_finite([probabilities for _, _, probabilities, _ in parts], remedy)
    found = world.gather_main(parts)
    if found is None:
        return None
    columns = [np.concatenate(column) for column in zip(*(part for rank in found for part in rank), strict=True)]
    del parts, found  # with 1000 classes the probabilities take hundreds of megabytes: they are held once
    order = np.argsort(columns[0], kind="stable")
    columns = [column[order] for column in columns]
    return Measurement.of(Predictions(*columns), loader.dataset.ids, loader.dataset.classes, train_counts)


def evaluate_only(world: World, args: argparse.Namespace, checkpoint: Checkpoint, folder: RunFolder) -> Row:
    """Measure a checkpoint on the test set; writes the *_eval files and returns the result."""
    data = world.on_each_node_first(lambda: load_test(args, checkpoint["class_names"], preprocessing_of(checkpoint)))
    with world.errors_together():
        require_same_classes(checkpoint, data.classes, args.resume)
        model = build_model(world, args, len(data.classes))
        load_model_state(model, checkpoint, args.resume)
        if world.is_main:
            folder.open()
    warn_of_part(args, {"test": data}, world.nodes)
    data_sha256 = {"test": data.fingerprint()}
    if checkpoint["data_sha256"]["test"] != data_sha256["test"]:
        log.warning("not the test images of the training: if it was trained on some, the result is too good")
    share_warnings(world.gather, world.is_main)
    with folder:
        log.info("%s: %d test images; the model is that of epoch %d", args.dataset, len(data), checkpoint["epoch"])
        started = time.perf_counter()
        with contextlib.closing(make_loader(world, args, data)) as loader:
            measurement = evaluate(model, loader, args, world, checkpoint["class_counts"])
        if measurement is None:
            return {}
        if args.overwrite:
            folder.make_way()
        write_record(folder, args, data_sha256, processes=world.size, nodes=world.nodes, model=checkpoint)
        folder.write_measurement(measurement, checkpoint["epoch"])
        result = {"epoch": checkpoint["epoch"], "split": "test", **measurement.numbers}
        result["time"] = time.perf_counter() - started
        folder.write_rows("metrics.csv", [result])
        return result


if __name__ == "__main__":
    run_script(main)
