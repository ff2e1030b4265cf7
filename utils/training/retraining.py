"""A run of augment.py or augment_ftl.py: codes from the trained model, and a classifier re-trained on them."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.cli.rules import DATA_FLAGS, MODEL_FLAGS, OPTIMISER_FLAGS, SCORING_FLAGS, adopt
from utils.device import autocast
from utils.distributed.world import World
from utils.errors import UserError
from utils.logs import progress
from utils.training.checkpoint import load_checkpoint, load_latest, read_verified, save_checkpoint
from utils.training.engine import Pass, Predictions, require_finite, take_steps, to_device, warn_of_divergence
from utils.training.folder import RunFolder
from utils.training.measurement import Measurement
from utils.training.noise import draw
from utils.training.optimisation import build_sgd
from utils.training.resume import require_same_dataset
from utils.training.run import Run

log = logging.getLogger("dgcmm")

Codes = dict[str, Tensor]


def load_trained(args: argparse.Namespace, given: set[str], folder: RunFolder) -> dict[str, Any]:
    """The trained model's checkpoint that `--resume` names; its flags are adopted into `args`.

    Raises:
        UserError: it is missing, damaged, of another data set, or itself the result of an augmentation.
    """
    if args.resume == "auto":
        args.resume = str(folder.path / "checkpoint.pth")
    checkpoint = load_checkpoint(Path(args.resume))
    if checkpoint["kind"] != "train":
        raise UserError(f"{args.resume} comes from an augmentation: name the checkpoint of train.py")
    require_same_dataset(args, checkpoint)
    adopt(args, given, checkpoint["args"], MODEL_FLAGS + DATA_FLAGS + SCORING_FLAGS, args.resume)
    return checkpoint


def load_unfinished(
    args: argparse.Namespace, given: set[str], folder: RunFolder, trained: dict[str, Any], flags: tuple[str, ...]
) -> tuple[dict[str, Any], Path] | None:
    """What an earlier call of the same command left in the run folder, and the file it is in, or None.

    Its flags are adopted into `args`.

    Args:
        flags: of this augmentation alone.

    Raises:
        UserError: it was made from another model or with other flags.
    """
    found = None if args.overwrite else load_latest(folder.checkpoint, folder.previous)
    if found is None:
        return None
    checkpoint, path = found
    if checkpoint["trained_sha256"] != trained["sha256"]:
        raise UserError(f"{path} was made from another model than {args.resume}: --overwrite replaces it")
    remedy = "--overwrite it, or give another --logdir"
    adopt(args, given, checkpoint["args"], OPTIMISER_FLAGS + flags, str(path), remedy)
    return found


def load_or_extract(
    path: Path,
    key: dict[str, Any],
    model: nn.Module,
    loaders: dict[str, Any],
    weights: Any,
    args: argparse.Namespace,
    world: World,
) -> dict[str, Codes]:
    """Codes of the splits in `loaders`, from the file at `path` if it was made from the same, else extracted.

    The file is a dict for plain `torch.load(path, weights_only=True)`: an entry per split, see `extract`; `key` says
    what it was made from; `class_names` and `ids` name the rows.
    """
    if path.exists():
        try:
            stored = read_verified(path)
            if stored["key"] == key:
                log.info("codes: %s", path)
                return {name: stored[name] for name in loaders}
        except (UserError, KeyError) as error:
            log.warning("%s is not used: %s", path, error)
    codes = {name: extract(model, loader, name == "train", weights, args, world) for name, loader in loaders.items()}
    ids = {name: loader.dataset.ids.tolist() for name, loader in loaders.items()}
    names = list(loaders["train"].dataset.classes)
    try:
        save_checkpoint(path, {"key": key, "class_names": names, "ids": ids, **codes})
        log.info("codes: written to %s", path)
    except UserError as error:
        log.warning("the codes are not kept: %s", error)
    return codes


def codes_key(trained: dict[str, Any], loaders: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What codes depend on: the checkpoint, the images, their size and the precision."""
    data = {name: loader.dataset.fingerprint() for name, loader in loaders.items()}
    sizes = {name: getattr(args, name) for name in ("new_size", "crop_size", "cache_size", "amp")}
    return {"checkpoint": trained["sha256"], "data": data, **sizes}


@torch.inference_mode()
def extract(
    model: nn.Module, loader: Any, labelled: bool, weights: Any, args: argparse.Namespace, world: World
) -> Codes:
    """Codes of every image, on the CPU, in the data set's order.

    Args:
        labelled: whether a generative model may see the labels (of training images).

    Returns:
        'targets' (N,) and 'mu', 'log_var' (N,D); for unlabelled images of a generative model, whose code depends on
        the candidate label, instead 'features' (N,H) and 'fixed' (N,K), see `Scorer.evidence`.
    """
    model.eval()
    scorer = model.scorer(weights)
    by_label = labelled or not model.generative
    names = ("targets", "mu", "log_var") if by_label else ("targets", "features", "fixed")
    codes: Codes = {}
    done = 0
    with progress(None, "codes", total=len(loader.dataset), unit="img", quiet=args.quiet) as bar:
        for images, labels, _ in loader:
            images, labels = to_device(images, world.device), labels.to(world.device)
            with autocast(world.device, args.amp):
                pair = model.posterior(model.features(images), labels) if by_label else scorer.evidence(images)
            for name, rows in zip(names, (labels, *pair), strict=True):
                if name not in codes:
                    codes[name] = _empty(len(loader.dataset), rows)
                codes[name][done : done + len(rows)] = rows
            done += len(labels)
            bar.update(len(labels))
    return codes


def _empty(count: int, rows: Tensor) -> Tensor:
    """Room on the CPU for `count` of such rows; an ordinary tensor, which may be changed outside inference mode."""
    with torch.inference_mode(False):
        return torch.empty(count, *rows.shape[1:], dtype=rows.dtype)


def take_training_codes(codes: dict[str, Codes], device: torch.device) -> Codes:
    """'mu', 'sigma' and 'targets' of the training split, on `device`, which leaves `codes`.

    Codes may fill most of the memory: sigma takes the place of log_var, and the other splits' log_var, which nothing
    reads, goes.
    """
    training = {name: value.to(device) for name, value in codes.pop("train").items()}
    training["sigma"] = training.pop("log_var").mul_(0.5).exp_()
    for split in codes.values():
        split.pop("log_var", None)
    return training


class RetrainingRun(Run):
    """Re-training of the classifier alone, on synthetic codes; it starts from the trained one.

    Args:
        args, folder, split, about: as in `Run`.
        model: the trained DGCMM, on its device; all but its classifier stays as it is.
        kind: 'aug' or 'aug_ftl'.
        sampler: plans epochs and makes codes, see `models.samplers`.
        codes: of the splits `split` and 'test': 'targets' and 'mu', or 'features' and 'fixed' of a generative model.
        datasets: behind them, by the same names.
        weights: of the loss terms, by which a generative model scores candidate labels.
        trained_sha256: of the trained model's checkpoint.
    """

    continuation = "the same command"

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        folder: RunFolder,
        split: str,
        about: dict[str, Any],
        world: World,
        *,
        kind: str,
        sampler: Any,
        codes: dict[str, Codes],
        datasets: dict[str, Any],
        weights: Any,
        trained_sha256: str,
    ) -> None:
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        super().__init__(args, model, build_sgd(model.classifier.parameters(), args), folder, split, about, world)
        self.kind, self.sampler, self.codes, self.datasets = kind, sampler, codes, datasets
        self.weights, self.trained_sha256 = weights, trained_sha256
        self.planned_counts: list[int] = []  # codes of each class in the running epoch

    def state(self) -> dict[str, Any]:
        """Which model this classifier belongs to."""
        return {"trained_sha256": self.trained_sha256}

    def train_steps(self) -> Iterator[int]:
        """The steps that are left of the sampler's plan for the epoch."""
        sources, labels = (part.to(self.world.device) for part in self.sampler.plan(self.epoch))
        batches = list(zip(*(part.split(self.args.batch_size) for part in (sources, labels)), strict=True))
        batches = batches[: self.args.max_steps]
        self.planned_counts = torch.bincount(labels).tolist()
        self.model.classifier.train()
        yield from take_steps(
            *(self._passes(batches), [len(source) for source, _ in batches]),
            *(self.model.classifier, self.optimizer, self.epoch, self.position, self.args, self.world),
        )

    def _passes(self, batches: list[tuple[Tensor, Tensor]]) -> Iterator[Pass]:
        """Cross-entropy of each batch of (sources, labels) that is left, on fresh codes."""
        for step in range(self.position.step, len(batches)):
            sources, labels = batches[step]
            noise = draw(len(sources), self.model.z_dim, self.args.seed, self.epoch, step, self.world.device)
            codes = self.sampler.codes(sources, labels, noise)
            yield Pass([F.cross_entropy(self.model.classifier(codes), labels)], sources)

    def end_training(self) -> dict[str, float | None]:
        """The mean loss of the epoch."""
        loss = self.position.totals[0] / self.position.seen
        warn_of_divergence(loss, self.planned_counts, self.epoch, self.args)
        return {"loss": loss}

    @torch.inference_mode()
    def measure(self, split: str) -> Measurement:
        """Classify the codes of a split, which are mu, or score its images (generative model)."""
        self.model.eval()
        scorer = self.model.scorer(self.weights)
        device = self.model.classifier.weight.device
        parts = []
        codes = self.codes[split]
        names = ("features", "fixed") if self.model.generative else ("mu",)
        for batch in zip(*(codes[name].split(self.args.batch_size) for name in names), strict=True):
            first, *rest = (rows.to(device) for rows in batch)
            if self.model.generative:
                probabilities = scorer.probabilities(first, *rest)
                mu, _ = self.model.posterior(first, probabilities.argmax(dim=1))
            else:
                probabilities, mu = F.softmax(self.model.classifier(first), dim=1), first
            components = self.model.prior.log_responsibilities(mu).argmax(dim=1)
            parts.append((probabilities.cpu().numpy(), components.cpu().numpy()))
        probabilities, components = (np.concatenate(column) for column in zip(*parts, strict=True))
        require_finite([probabilities], self.world)
        targets = codes["targets"].numpy()
        predictions = Predictions(np.arange(len(targets)), targets, probabilities, components)
        return Measurement.of(predictions, self.datasets[split], self.about["class_counts"])
