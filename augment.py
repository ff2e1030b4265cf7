#!/usr/bin/env python3
"""Re-train the classifier of a trained DGCMM on codes drawn from the posterior (Case 2).

Every class gets as many codes as the largest one has images, each a fresh draw from its image's posterior:
    python augment.py Digits_LT --logdir=./logs/digits --resume=auto --epochs=20 --lr=1e-2 --T-max=20

The codes are kept beside the trained checkpoint, the new classifier in <logdir>/checkpoint_aug.pth. The same command
continues an unfinished augmentation, and prints the result of a finished one.
The last line on standard output is a JSON object with the final metrics.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets.names import DATASETS
from models.encoder import ARCHITECTURES, feature_dim
from utils.cli.arguments import augment_parser, common_parser
from utils.cli.rules import complete, parse
from utils.errors import run_script

log = logging.getLogger("dgcmm")


def build_parser() -> argparse.ArgumentParser:
    """The command line of augment.py."""
    return augment_parser(common_parser(DATASETS, ARCHITECTURES, lr=1e-2), prog="augment.py", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Case 2: codes from the posterior of each class's own images."""
    args, given = parse(build_parser(), argv)
    retrain(args, given, kind="aug", make_sampler=posterior_sampler)


def posterior_sampler(codes: dict[str, Any], num_classes: int, args: argparse.Namespace) -> Any:
    """The sampler of Case 2 over training codes."""
    from models.samplers import PosteriorSampler

    return PosteriorSampler(codes["mu"], codes["sigma"], codes["targets"], num_classes, args.seed)


def retrain(
    args: argparse.Namespace,
    given: set[str],
    kind: str,
    make_sampler: Callable,
    flags: tuple[str, ...] = (),
) -> None:
    """Re-train the classifier; all that the two augmentations share.

    Args:
        args, given: the parsed command line.
        kind: 'aug' or 'aug_ftl', which is in the names of the files.
        make_sampler: from (training codes, number of classes, args) to a sampler of `models.samplers`.
        flags: names of the flags that only this augmentation has.
    """
    # torch is imported from here on, so that -h and a wrong flag answer at once
    from utils.distributed.world import World
    from utils.logs import start_logging
    from utils.training.folder import RunFolder
    from utils.training.retraining import RetrainingRun, load_trained, load_unfinished, take_training_codes
    from utils.training.run import finished_result, print_result, require_same_data

    start_logging(args.quiet)
    folder = RunFolder(args.logdir, f"_{kind}")
    trained = load_trained(args, given, folder)
    complete(args, feature_dim(args.arch))
    found = load_unfinished(args, given, folder, trained, flags)
    unfinished, path = found or (None, folder.checkpoint)
    if result := finished_result(args, unfinished):
        print_result(result)
        return
    folder.check_place()
    world = World()
    model, splits, loaders, about, weights = prepare(args, trained, world)
    require_same_data(trained, about, args.resume)
    for entry in ("state_dict", "optimizer"):  # each as large as the model
        del trained[entry]
    with folder.open(overwrite=args.overwrite):
        resumed = (unfinished["epoch"], unfinished["step"]) if unfinished else None
        folder.write_args(args, about["data_sha256"], resumed)
        codes = codes_of(args, trained, model, loaders, weights, world)
        training_codes = take_training_codes(codes, world.device)
        run = RetrainingRun(
            *(args, model, folder, splits.measured[0], about, world),
            kind=kind,
            sampler=make_sampler(training_codes, len(splits.train.classes), args),
            codes=codes,
            datasets={splits.measured[0]: splits.measured[1], "test": splits.test},
            weights=weights,
            trained_sha256=trained["sha256"],
        )
        if unfinished:
            run.restore(unfinished, path)
            log.info("continuing after epoch %d of %d, step %d", run.epoch, args.epochs, run.position.step)
        print_result(run.run())


def prepare(
    args: argparse.Namespace, trained: dict[str, Any], world: Any
) -> tuple[Any, Any, dict[str, Any], dict[str, Any], Any]:
    """(trained model, splits under the evaluation transform, their loaders, description, loss weights)."""
    from datasets.assembly import load_splits, prepare_data
    from datasets.loading import BatchLoader, EvaluationBatches
    from models.dgcmm import DGCMM, LossWeights
    from utils.device import check_device, choose_device
    from utils.training.checkpoint import load_model_state
    from utils.training.run import description

    world.device = choose_device(args)
    check_device(world.device, args.amp)
    prepare_data(args)
    splits = load_splits(
        *(args.dataset, args.datadir),
        **{name: getattr(args, name) for name in ("new_size", "crop_size", "subset_seed", "val_fraction", "dummy")},
        **{"cache_size": args.cache_size, "bad_images": args.bad_images, "quiet": args.quiet},
        augment=False,
    )
    model = DGCMM(
        arch=args.arch,
        num_classes=len(splits.train.classes),
        z_dim=args.z_dim,
        image_size=args.crop_size,
        generative=args.generative,
        gmm_assign=args.gmm_assign,
    )
    load_model_state(model, trained, args.resume)
    about = description(args, splits.train, splits.test)
    if args.max_steps:
        splits = splits.spread(args.max_steps * args.batch_size)
    name, measured = splits.measured
    parts = {"train": splits.train, name: measured, "test": splits.test}
    loaders = {
        name: BatchLoader(
            data, EvaluationBatches(len(data), args.batch_size), args.workers, world.device.type == "cuda"
        )
        for name, data in parts.items()
    }
    weights = LossWeights(args.weight_cls, args.weight_reconst, args.weight_gmm)
    return model.to(world.device), splits, loaders, about, weights


def codes_of(
    args: argparse.Namespace, trained: dict[str, Any], model: Any, loaders: dict[str, Any], weights: Any, world: Any
) -> dict[str, Any]:
    """Codes of all splits, from the file beside the trained checkpoint or extracted into it."""
    from utils.training.retraining import codes_key, load_or_extract

    path = Path(args.resume)
    key = codes_key(trained, loaders, args)
    return load_or_extract(path.with_name(f"{path.stem}_codes.pth"), key, model, loaders, weights, args, world)


if __name__ == "__main__":
    run_script(main)
