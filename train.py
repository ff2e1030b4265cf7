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
import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.names import DATASETS
from models.encoder import ARCHITECTURES, feature_dim
from utils.cli.arguments import common_parser, train_parser
from utils.cli.rules import check_training, complete, follow, parse
from utils.distributed.launch import Launch, check_batch_size, plan_launch
from utils.errors import run_script

log = logging.getLogger("dgcmm")


def build_parser() -> argparse.ArgumentParser:
    """The command line of train.py."""
    return train_parser(common_parser(DATASETS, ARCHITECTURES, lr=5e-3), prog="train.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check everything that can be wrong, then train or evaluate, in as many processes as are asked for."""
    args, given = parse(build_parser(), argv)
    launch = plan_launch(args, os.environ)
    if not args.resume:  # else flags that are not given come from the checkpoint
        complete(args, feature_dim(args.arch))
        check_training(args)
        check_batch_size(args, launch.local_size)
    # torch is imported from here on, so that -h and a wrong flag answer at once
    from utils.distributed.world import World
    from utils.logs import start_logging

    start_logging(args.quiet, launch.first_rank)
    if launch.size == 1:
        work(World(), args, given)
    else:
        work_together(launch, args, given)


def work_together(launch: Launch, args: argparse.Namespace, given: set[str]) -> None:
    """Start this node's processes, or be one of them."""
    import torch

    from utils.device import choose_gpus
    from utils.distributed.spawn import run_member, spawn

    gpus = choose_gpus(launch, os.environ)
    if not launch.spawns:
        run_member(launch, gpus[0], work, args, given)
    elif not preflight(launch, torch.device("cpu" if gpus[0] is None else "cuda"), copy.copy(args), given):
        spawn(work, launch, gpus, args, given)


def preflight(launch: Launch, device: Any, args: argparse.Namespace, given: set[str]) -> bool:
    """Find what is wrong before a process is started, and fetch what is missing; True if nothing is left to do."""
    from datasets.assembly import prepare_data
    from datasets.loading import TrainBatches
    from utils.device import check_device
    from utils.logs import silenced
    from utils.training.folder import RunFolder
    from utils.training.run import finished_result, print_result

    with silenced():  # the main process will say it again
        if launch.first_rank == 0:
            folder = RunFolder(args.logdir, "_eval" if args.evaluate else "")
            checkpoint = resolve(args, given, folder, launch)
            result = finished_result(args, checkpoint)
            if result and launch.nodes == 1:  # other nodes are told when all are there
                print_result(result)
                return True
            folder.check_place()
    check_device(device, args.amp, args.sync_bn)
    prepare_data(args)
    if launch.first_rank and args.resume:
        return False  # what the checkpoint says of data and batches, node 0 knows
    with silenced():
        data = load_data(args)
        if not args.evaluate:
            TrainBatches(len(data.train), args.batch_size * launch.nodes, args.seed, world=launch.size)
        if args.pretrained and not args.resume:
            from models.encoder import ResNetEncoder

            ResNetEncoder(ARCHITECTURES[args.arch], pretrained=True)
    return False


def work(world: Any, args: argparse.Namespace, given: set[str]) -> None:
    """All that one process does; `args` are as they were parsed."""
    from utils.device import choose_device, share_cores
    from utils.logs import start_logging
    from utils.training.folder import RunFolder
    from utils.training.run import finished_result, print_result

    if world.size > 1:
        start_logging(args.quiet, world.rank)
        args.quiet |= not world.is_main
    share_cores(world.local_size, os.environ)
    world.device = choose_device(args, world.gpu)
    folder = RunFolder(args.logdir, "_eval" if args.evaluate else "")
    parsed = copy.copy(args)
    main, checkpoint = world.from_main(lambda: (args, resolve(args, given, folder, world)))
    with world.together():
        follow(parsed, world.share(parsed), main, world.rank)
    args = parsed
    args.resume = main.resume
    result = finished_result(args, checkpoint)
    if not result:
        world.from_main(folder.check_place)
        result = (evaluate_only if args.evaluate else train)(world, args, checkpoint, folder)
    if world.is_main:
        print_result(result)


def resolve(args: argparse.Namespace, given: set[str], folder: Any, world: Any) -> dict[str, Any] | None:
    """The checkpoint to continue or to measure, if any; `args` are complete and checked after it."""
    from utils.training.resume import find_checkpoint

    checkpoint = find_checkpoint(args, given, folder, world.nodes)
    complete(args, feature_dim(args.arch))
    check_training(args)
    check_batch_size(args, world.local_size)
    return checkpoint


def load_data(args: argparse.Namespace) -> Any:
    """The splits of the data set, whose files are fetched if they are missing and can be."""
    from datasets.assembly import load_splits, prepare_data

    prepare_data(args)
    return load_splits(
        *(args.dataset, args.datadir),
        **{name: getattr(args, name) for name in ("new_size", "crop_size", "subset_seed", "val_fraction", "dummy")},
        **{"cache_size": args.cache_size, "bad_images": args.bad_images, "quiet": args.quiet},
    )


def build(world: Any, args: argparse.Namespace, pretrained: bool) -> tuple[Any, Any, Any]:
    """(model on its device, splits, loader of a split) as `args` describe them."""
    import torch

    from datasets.loading import BatchLoader, EvaluationBatches, TrainBatches
    from models.dgcmm import DGCMM
    from utils.device import check_device, compile_networks
    from utils.randomness import Stream, global_seed

    check_device(world.device, args.amp, args.sync_bn)
    splits = load_data(args)
    with global_seed(args.seed, Stream.INITIALISATION):
        model = DGCMM(
            arch=args.arch,
            num_classes=len(splits.train.classes),
            z_dim=args.z_dim,
            image_size=args.crop_size,
            generative=args.generative,
            gmm_assign=args.gmm_assign,
            pretrained=pretrained,
        ).to(world.device)
    if args.sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if args.compile:
        compile_networks(model)
    images = args.batch_size * world.nodes
    workers = -(-args.workers // world.local_size)

    def loader(dataset: Any, train: bool) -> BatchLoader:
        place = {"rank": world.rank, "world": world.size}
        batches = (
            TrainBatches(len(dataset), images, args.seed, **place)
            if train
            else EvaluationBatches(len(dataset), images, **place)
        )
        return BatchLoader(dataset, batches, workers, pin_memory=world.device.type == "cuda")

    return model, splits, loader


def train(world: Any, args: argparse.Namespace, checkpoint: dict[str, Any] | None, folder: Any) -> dict[str, Any]:
    """Start or continue a training run; returns its result."""
    from models.dgcmm import LossWeights
    from utils.logs import share_warnings
    from utils.training.optimisation import default_prior_lr
    from utils.training.resume import TrainingRun, log_facts
    from utils.training.run import description, require_same_data

    args.prior_lr = args.prior_lr or default_prior_lr(args.lr, args.weight_gmm)
    with world.together():
        model, splits, loader = build(world, args, pretrained=args.pretrained and checkpoint is None)
        split, measured = splits.measured
        datasets = {"train": splits.train, split: measured, "test": splits.test}
        loaders = {name: loader(data, name == "train") for name, data in datasets.items()}
        about = description(args, splits.train, splits.test)
        run = TrainingRun(
            *(args, model, folder, split, about, world),
            datasets=datasets,
            loaders=loaders,
            weights=LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm),
            warmup_weights=LossWeights(args.weight_cls, 0.0, 0.0),
        )
        if checkpoint:
            require_same_data(checkpoint, about, args.resume)
            run.restore(checkpoint, Path(args.resume))
        if world.is_main:
            folder.open(overwrite=args.overwrite)
    with folder:
        main_data = world.share(about["data_sha256"])
        with world.together():
            require_same_data({"data_sha256": main_data}, about, "rank 0")
        if world.is_main:
            resumed = (run.epoch, run.position.step) if checkpoint else None
            folder.write_args(args, about["data_sha256"], resumed, world.size)
            folder.write_subset(splits.train.rows)
            log_facts(world, args, run, splits)
        share_warnings(world)
        return run.run()


def evaluate_only(world: Any, args: argparse.Namespace, checkpoint: dict[str, Any], folder: Any) -> dict[str, Any]:
    """Measure a checkpoint on the test set; writes the *_eval files and returns the result."""
    from models.dgcmm import LossWeights
    from utils.logs import share_warnings
    from utils.training.checkpoint import load_model_state
    from utils.training.resume import measure_checkpoint

    with world.together():
        model, splits, loader = build(world, args, pretrained=False)
        load_model_state(model, checkpoint, args.resume)
        if world.is_main:
            folder.open()
    share_warnings(world)
    weights = LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm)
    with folder:
        return measure_checkpoint(model, loader(splits.test, False), weights, checkpoint, args, folder, world)


if __name__ == "__main__":
    run_script(main)
