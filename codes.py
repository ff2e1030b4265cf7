"""The codes that a re-training starts from: extracting them with the trained model, and keeping them beside it."""

import argparse
import logging
from pathlib import Path

import torch
from torch import Tensor

from datasets.base import Splits
from datasets.loading import BatchLoader, make_loader
from datasets.splits import load_splits
from models.atypicality import code_distances, distance_quantiles
from models.classifier import ImageClassifier
from models.loading import all_weights
from models.samplers import ROWS
from models.scoring import Scorer
from utils.device import autocast, memory_watched, to_device
from utils.distributed.world import World
from utils.errors import UserError
from utils.logs import progress
from utils.training.checkpoint import Checkpoint, read_verified, save_checkpoint
from utils.training.resume import require_same_classes, require_same_data

log = logging.getLogger("dgcmm")

Codes = dict[str, Tensor]  # of one split, see `extract`


def load_same_splits(args: argparse.Namespace, trained: Checkpoint) -> tuple[Splits, dict[str, str]]:
    """Load the images that a model was trained and measured on, without random crops; returns their hashes too."""
    splits = load_splits(args, augment=False)
    require_same_classes(trained, splits.train.classes, args.resume)
    data_sha256 = splits.fingerprints()
    require_same_data(trained["data_sha256"], data_sha256, args.resume)
    return splits, data_sha256


def load_or_extract(
    model: ImageClassifier, splits: Splits, trained_sha256: str, args: argparse.Namespace, world: World
) -> dict[str, Codes]:
    """Load the codes of all splits from the file beside the trained checkpoint, or extract them into it.

    The file is a dict for plain `torch.load(path, weights_only=True)`: an entry per split, see `extract`; `key` says
    what it was made from, and it serves only where that is the same; `class_names` and `ids` name the rows.

    Args:
        trained_sha256: digest of the trained model's weights.
    """
    name, measured = splits.measured
    parts = {"train": splits.train, name: measured, "test": splits.test}
    data = {name: part.fingerprint() for name, part in parts.items()}
    settings = ("new_size", "crop_size", "train_transform", "cache_size", "amp")
    key = {"weights": trained_sha256, "data": data, **{name: getattr(args, name) for name in settings}}
    path = Path(args.resume).with_name(f"{Path(args.resume).stem}_codes.pth")
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
        loader = make_loader(world, args, part)
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
            images, labels = to_device(images, device), labels.to(device)
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


def examine_training_codes(model: ImageClassifier, codes: Codes) -> dict[str, Tensor]:
    """Measure the distances of training codes that the checkpoint keeps, where there is a prior (`models.atypicality`).

    As train.py does, but of codes that are there already.
    """
    if model.prior is None or not model.prior.started:
        return {}
    parts = zip(codes["mu"].split(ROWS), codes["targets"].split(ROWS), strict=True)
    distances = torch.cat([code_distances(model.prior, mu, targets) for mu, targets in parts])
    targets = codes["targets"].cpu().numpy()
    return {"distance_quantiles": distance_quantiles(distances.cpu().numpy(), targets, model.num_classes)}
