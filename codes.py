"""Codes of images: extracted for a re-training and kept beside the trained model, and measured for a checkpoint.

A checkpoint says how far training codes lie from their components (`models.atypicality`): of a training some, of a
re-training all.
"""

import argparse
import contextlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from datasets.base import ImageDataset, Splits
from datasets.loading import BatchLoader, make_loader, shared_batches
from datasets.splits import load_splits
from datasets.subsets import spread
from models.atypicality import code_distances, distance_quantiles, measure_distances
from models.classifier import ImageClassifier
from models.loading import all_weights
from models.samplers import ROWS
from models.scoring import Scorer
from utils.device import autocast, memory_watched, to_unit_range
from utils.distributed.world import World
from utils.errors import UserError
from utils.logs import progress
from utils.preprocessing import Transform
from utils.training.checkpoint import Checkpoint, read_verified, save_checkpoint
from utils.training.layout import codes_beside
from utils.training.resume import require_same_classes, require_same_data
from utils.training.run import Run

log = logging.getLogger("dgcmm")

MEASURED_CODES = 400  # of a class, for atypicality: a share is then known to 0.03
Codes = dict[str, Tensor]  # of one split: as `extract` gives them, to a sampler as `take_training_codes` does


def load_same_splits(args: argparse.Namespace, trained: Checkpoint) -> tuple[Splits, dict[str, str]]:
    """Load the images that a model was trained and measured on, without random crops; returns their hashes too.

    Raises:
        UserError: the data has other classes or images than the checkpoint says.
    """
    splits = load_splits(args, augment=False)
    require_same_classes(trained, splits.train.classes, args.resume)
    data_sha256 = splits.fingerprints()
    require_same_data(trained["data_sha256"], data_sha256, args.resume, args.bad_images == "skip")
    return splits, data_sha256


def load_or_extract(
    model: ImageClassifier, splits: Splits, trained_sha256: str, args: argparse.Namespace, world: World
) -> dict[str, Codes]:
    """Load the codes of all splits from the file beside the trained checkpoint, or extract them into it.

    The file is a dict for plain `torch.load(path, weights_only=True)`: an entry per split, see `extract`; `key` says
    what it was made from, and it serves only where that is the same; `class_names` and `ids` name the rows.

    Args:
        trained_sha256: digest of the trained model's weights.

    Returns:
        Codes of 'train', of the split that is measured and of 'test', on the CPU.
    """
    name, measured = splits.measured
    parts = {"train": splits.train, name: measured, "test": splits.test}
    data = {name: part.fingerprint() for name, part in parts.items()}
    settings = ("new_size", "crop_size", "train_transform", "cache_size", "amp")
    key = {"weights": trained_sha256, "data": data, **{name: getattr(args, name) for name in settings}}
    path = codes_beside(Path(args.resume))
    if path.exists():
        try:
            stored = read_verified(path)
            if stored["key"] == key:
                log.info("codes: %s", path)
                return {name: stored[name] for name in parts}
        except (UserError, KeyError) as error:
            log.warning("%s is not used: %s", path, error)
    codes = {}
    for name, part in parts.items():
        with contextlib.closing(make_loader(world, args, part)) as loader:
            codes[name] = extract(model, loader, name == "train", args, world.device)
    if args.max_steps and path.exists():
        return codes  # a trial on a part of the images does not replace those of all
    ids = {name: part.ids.tolist() for name, part in parts.items()}
    try:
        save_checkpoint(path, {"key": key, "class_names": list(splits.train.classes), "ids": ids, **codes})
        log.info("codes: written to %s", path)
    except UserError as error:
        log.warning("the codes are not kept: %s", error)
    return codes


@torch.inference_mode()
def extract(
    model: ImageClassifier, loader: BatchLoader, labelled: bool, args: argparse.Namespace, device: torch.device
) -> Codes:
    """Extract the code of every image, to the CPU, in the data set's order.

    Args:
        labelled: whether a generative model may see the labels (of training images).

    Returns:
        'targets' (N,) and 'mu', 'log_var' (N,D), for a plain classifier h and -inf; for unlabelled images of a
        generative model, whose code depends on the candidate label, instead 'features' (N,H) and 'fixed' (N,K), see
        `Scorer.evidence`.
    """
    model.eval()
    scorer = Scorer(model, all_weights(args))
    by_label = labelled or not model.generative
    names = ("targets", "mu", "log_var") if by_label else ("targets", "features", "fixed")
    codes: Codes = {}
    done = 0
    with progress("codes", total=len(loader.dataset), unit="img", quiet=args.quiet) as bar:
        for images, labels, _ in loader:
            images, labels = to_unit_range(images, device), labels.to(device)
            with autocast(device, args.amp):
                pair = model.posterior(model.features(images), labels) if by_label else scorer.evidence(images)
            found = dict(zip(names, (labels, *pair), strict=True))
            if not codes:
                with torch.inference_mode(False):  # ordinary tensors, which may be changed outside this mode
                    count = len(loader.dataset)
                    codes = {name: rows.new_empty(count, *rows.shape[1:], device="cpu") for name, rows in found.items()}
            for name, rows in found.items():
                codes[name][done : done + len(rows)] = rows
            done += len(labels)
            bar.update(len(labels))
    return codes


def take_training_codes(codes: dict[str, Codes], device: torch.device) -> Codes:
    """Take 'mu', 'sigma' and 'targets' of the training split out of `codes`, to `device`.

    Codes may fill most of the memory: sigma takes the place of log_var, and the other splits' log_var, which nothing
    reads, goes.

    Raises:
        UserError: the device has no room for them.
    """
    with memory_watched(remedy="a GPU that holds the codes of all training images, or none (CUDA_VISIBLE_DEVICES=)"):
        training = {name: value.to(device) for name, value in codes.pop("train").items()}
    training["sigma"] = training.pop("log_var").mul_(0.5).exp_()
    for split in codes.values():
        split.pop("log_var", None)
    return training


def examine_codes(run: Run, data: ImageDataset, transform: Transform) -> dict[str, Tensor | None]:
    """Measure the distances of training codes that the checkpoint of a training keeps, where there is a prior.

    One pass over the first `MEASURED_CODES` images a class or, if there are few of some classes, more of the others;
    with `--max-steps` over as many as an epoch has.

    Args:
        data: the training images.
        transform: of the evaluation.
    """
    if run.model.prior is None or not run.model.prior.started:
        return {}
    args, world = run.args, run.world
    most = MEASURED_CODES * run.model.num_classes
    if args.max_steps:
        most = min(most, args.max_steps * args.batch_size * world.nodes)
    loader = make_loader(world, args, data.subset(spread(data.targets, most), transform))
    batches = shared_batches(loader, args, world, "codes")
    return {"distance_quantiles": measure_distances(run.model, batches, args.amp, world)}


def examine_training_codes(model: ImageClassifier, codes: Codes) -> dict[str, Tensor]:
    """Measure the distances of training codes that the checkpoint of a re-training keeps, where there is a prior."""
    if model.prior is None or not model.prior.started:
        return {}
    parts = zip(codes["mu"].split(ROWS), codes["targets"].split(ROWS), strict=True)
    distances = torch.cat([code_distances(model.prior, mu, targets) for mu, targets in parts])
    targets = codes["targets"].cpu().numpy()
    return {"distance_quantiles": distance_quantiles(distances.cpu().numpy(), targets, model.num_classes)}
