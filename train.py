#!/usr/bin/env python3
"""Train a Deep Generative Mixture Model, or measure a trained one.

Digits, no download, any machine:
    python train.py Digits_LT --logdir=./logs/digits --arch=resnet18_vae3 --new-size=32 --crop-size=32 \\
      --epochs=12 --batch-size=32 --clip-grad=5 --T-max=12

Continue it after an interruption, or print its result when it has finished:
    python train.py Digits_LT --logdir=./logs/digits --resume=auto

Measure its checkpoint on the test set:
    python train.py Digits_LT --logdir=./logs/digits --resume=./logs/digits/checkpoint.pth --evaluate

The last line on standard output is a JSON object with the final metrics.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.names import DATASETS
from models.names import ARCHITECTURES, feature_dim
from utils.arguments import common_parser, complete, parse, train_parser
from utils.errors import UserError, run_script

log = logging.getLogger("dgcmm")


def build_parser() -> argparse.ArgumentParser:
    """The command line of train.py."""
    return train_parser(common_parser(DATASETS, ARCHITECTURES, lr=5e-3), prog="train.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check everything that can be wrong, then train or evaluate."""
    args, given = parse(build_parser(), argv)
    if not args.resume:  # else flags that are not given come from the checkpoint
        complete(args, feature_dim(args.arch))
        check(args)
    # torch is imported from here on, so that -h and a wrong flag answer at once
    from utils.logs import start_logging
    from utils.run import print_result
    from utils.run_folder import RunFolder
    from utils.training import find_checkpoint

    start_logging(args.quiet)
    folder = RunFolder(args.logdir, "_eval" if args.evaluate else "")
    checkpoint = find_checkpoint(args, given, folder)
    complete(args, feature_dim(args.arch))
    check(args)
    if checkpoint and not args.evaluate and checkpoint["result"] and checkpoint["epoch"] >= args.epochs:
        log.info("this run is finished; its result:")
        print_result(checkpoint["result"])
        return
    result = evaluate_only(args, checkpoint, folder) if args.evaluate else train(args, checkpoint, folder)
    print_result(result)


def check(args: argparse.Namespace) -> None:
    """Raise a `UserError` where the flags leave nothing to train or to evaluate."""
    if args.evaluate and not args.resume:
        raise UserError("--evaluate needs --resume: name the checkpoint to measure")
    if not (args.weight_cls or args.weight_reconst or args.weight_gmm):
        raise UserError("--weight-cls, --weight-reconst and --weight-gmm are all 0: nothing would be trained")
    if args.warmup_epochs and not args.weight_cls:
        raise UserError("--warmup-epochs trains the cross-entropy alone, which --weight-cls 0 switches off")
    if args.warmup_threshold is not None and not args.warmup_epochs:
        raise UserError("--warmup-threshold ends a warm-up: give --warmup-epochs too")
    if args.start_epoch is not None and args.start_epoch >= args.epochs:
        raise UserError(f"--start-epoch {args.start_epoch}: only {args.epochs} epochs are to be run (--epochs)")


def build(args: argparse.Namespace, pretrained: bool) -> tuple[Any, Any, Any]:
    """(model on its device, splits, loader of a split) as `args` describe them."""
    from datasets.assembly import load_splits
    from datasets.loading import BatchLoader, EvaluationBatches, TrainBatches
    from models.dgcmm import DGCMM
    from utils.device import choose_device
    from utils.randomness import Stream, global_seed

    device = choose_device(args)
    sizes = {"new_size": args.new_size, "crop_size": args.crop_size}
    splits = load_splits(
        *(args.dataset, args.datadir),
        **sizes,
        **{"subset_seed": args.subset_seed, "val_fraction": args.val_fraction, "dummy": args.dummy},
        **{"cache_size": args.cache_size, "bad_images": args.bad_images, "quiet": args.quiet},
    )
    with global_seed(args.seed, Stream.INITIALISATION):
        model = DGCMM(
            *(args.arch, len(splits.train.classes), args.z_dim, args.crop_size),
            *(args.generative, args.gmm_assign, pretrained),
        ).to(device)

    def loader(dataset: Any, train: bool) -> BatchLoader:
        batches = (
            TrainBatches(len(dataset), args.batch_size, args.seed)
            if train
            else EvaluationBatches(len(dataset), args.batch_size)
        )
        return BatchLoader(dataset, batches, args.workers, pin_memory=device.type == "cuda")

    return model, splits, loader


def train(args: argparse.Namespace, checkpoint: dict[str, Any] | None, folder: Any) -> dict[str, Any]:
    """Start or continue a training run; returns its result."""
    from models.dgcmm import LossWeights
    from utils.optimisation import default_prior_lr
    from utils.run import description, require_same_data
    from utils.training import TrainingRun

    args.prior_lr = args.prior_lr or default_prior_lr(args.lr, args.weight_gmm)
    model, splits, loader = build(args, pretrained=args.pretrained and checkpoint is None)
    split, measured = splits.measured
    datasets = {"train": splits.train, split: measured, "test": splits.test}
    loaders = {name: loader(data, name == "train") for name, data in datasets.items()}
    about = description(args, splits.train, splits.test)
    weights = LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm)
    run = TrainingRun(
        *(args, model, folder, split, about),
        datasets=datasets,
        loaders=loaders,
        weights=weights,
        warmup_weights=LossWeights(args.weight_cls, 0.0, 0.0),
    )
    if len(splits.train) < args.batch_size:
        log.warning("--batch-size %d: only %d training images, all in one batch", args.batch_size, len(splits.train))
    if checkpoint:
        require_same_data(checkpoint, about, args.resume)
        run.restore(checkpoint, Path(args.resume))
    with folder.open(overwrite=args.overwrite):
        folder.write_args(args, about["data_sha256"], resumed_from=run.epoch if checkpoint else None)
        folder.write_subset(splits.train.rows)
        log_facts(args, run, splits)
        return run.run()


def log_facts(args: argparse.Namespace, run: Any, splits: Any) -> None:
    """The derived facts of a run, once, at its start."""
    held = f", {len(splits.val)} held out" if splits.val else ""
    log.info("%s: %d training images%s, %d test images", args.dataset, len(splits.train), held, len(splits.test))
    log.info("images per class: %s", dict(zip(splits.train.classes, splits.train.class_counts, strict=True)))
    log.info("%s: %.1f million parameters on %s, amp %s", args.arch, count_millions(run.model), run.device, args.amp)
    rates = f"learning rate {args.lr:g}, prior {args.prior_lr:g}"
    log.info("%d steps of %d an epoch, %s", len(run.loaders["train"]), args.batch_size, rates)
    if run.epoch:
        log.info("continuing after epoch %d of %d", run.epoch, args.epochs)


def count_millions(model: Any) -> float:
    """Parameters of a model, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def evaluate_only(args: argparse.Namespace, checkpoint: dict[str, Any], folder: Any) -> dict[str, Any]:
    """Measure a checkpoint on the test set; writes the *_eval files and returns the result."""
    import time

    from models.dgcmm import LossWeights
    from utils.checkpoint import load_model_state
    from utils.engine import evaluate
    from utils.measurement import Measurement

    model, splits, loader = build(args, pretrained=False)
    load_model_state(model, checkpoint, args.resume)
    started = time.perf_counter()
    weights = LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm)
    with folder.open(overwrite=True):
        folder.write_args(args, {"test": splits.test.fingerprint()})
        device = next(model.parameters()).device
        predictions = evaluate(model, loader(splits.test, False), weights, device, args)
        measurement = Measurement.of(predictions, splits.test, checkpoint["class_counts"])
        measurement.write(folder, checkpoint["epoch"], "test")
        result = {"epoch": checkpoint["epoch"], "split": "test", **measurement.numbers}
        result["time"] = time.perf_counter() - started
        folder.write_rows("metrics.csv", [result])
    return result


if __name__ == "__main__":
    run_script(main)
