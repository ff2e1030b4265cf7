"""A run of train.py: its epochs, and how it is resumed."""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.arguments import DATA_FLAGS, MODEL_FLAGS, SCORING_FLAGS, TRAINING_FLAGS, adopt
from utils.board import Board
from utils.checkpoint import load_checkpoint
from utils.engine import evaluate, start_prior, train_one_epoch
from utils.errors import UserError
from utils.measurement import Measurement
from utils.optimisation import build_optimizer
from utils.run import Run
from utils.run_folder import RunFolder

log = logging.getLogger("dgcmm")


def find_checkpoint(args: argparse.Namespace, given: set[str], folder: RunFolder) -> dict[str, Any] | None:
    """The checkpoint that `--resume` names for train.py, or None for a new run; its flags are adopted into `args`.

    Raises:
        UserError: it is missing, damaged or of another run, or the run folder holds a run that nothing asked for.
    """
    if args.resume == "auto":
        args.resume = str(folder.path / "checkpoint.pth")
        if not args.evaluate and not Path(args.resume).exists():
            args.resume = None
            return None
    own = bool(args.resume) and Path(args.resume).resolve().parent == folder.path.resolve()
    if own and args.overwrite and not args.evaluate:
        raise UserError("--overwrite would delete the run that --resume continues: give one of the two")
    if folder.holds_run() and not (args.overwrite or own or args.evaluate):
        raise UserError(
            f"--logdir {folder.path} holds a run: continue it (--resume=auto), --overwrite it, or name another"
        )
    if not args.resume:
        return None
    checkpoint = load_checkpoint(Path(args.resume))
    if not args.evaluate and checkpoint["kind"] != TrainingRun.kind:
        raise UserError(f"{args.resume} comes from an augmentation: it can be evaluated (--evaluate), not trained on")
    require_same_dataset(args, checkpoint)
    flags = MODEL_FLAGS + DATA_FLAGS + SCORING_FLAGS + (() if args.evaluate else TRAINING_FLAGS)
    adopt(args, given, checkpoint["args"], flags, args.resume)
    return checkpoint


def require_same_dataset(args: argparse.Namespace, checkpoint: dict[str, Any]) -> None:
    """Raise a `UserError` if a checkpoint was trained on another data set than the command names."""
    if checkpoint["dataset"] != args.dataset:
        raise UserError(
            f"{args.resume} was trained on {checkpoint['dataset']}, not on {args.dataset}: name that data set"
        )


class TrainingRun(Run):
    """Training of the whole model.

    Args:
        args, folder, split, about: as in `Run`.
        model: the DGCMM, on its device.
        datasets: by the names 'train', `split` and 'test'.
        loaders: batches of them, by the same names.
        weights: of the loss terms.
        warmup_weights: the same during warm-up.
    """

    kind = "train"

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        folder: RunFolder,
        split: str,
        about: dict[str, Any],
        *,
        datasets: dict[str, Any],
        loaders: dict[str, Any],
        weights: Any,
        warmup_weights: Any,
    ) -> None:
        super().__init__(args, model, build_optimizer(model, args), folder, split, about)
        self.datasets, self.loaders = datasets, loaders
        self.weights, self.warmup_weights = weights, warmup_weights
        self.warmup_over = False
        self.prior_started = False
        self.epoch = args.start_epoch or 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue where `checkpoint` was written, or at `--start-epoch`."""
        super().restore(checkpoint, path)
        self.warmup_over, self.prior_started = checkpoint["warmup_over"], checkpoint["prior_started"]
        if self.args.start_epoch is not None:
            self.epoch = self.args.start_epoch
            self.history = [row for row in self.history if row["epoch"] <= self.epoch]
            if self.best and self.best["epoch"] > self.epoch:
                self.best = None

    def train_epoch(self) -> dict[str, float | None]:
        """One epoch over the training images, during warm-up with the cross-entropy alone.

        After the first epoch that has the mixture term, the prior starts from the codes.
        """
        warming = self.epoch < self.args.warmup_epochs and not self.warmup_over
        weights = self.warmup_weights if warming else self.weights
        losses = train_one_epoch(
            *(self.model, self.loaders["train"], self.optimizer, weights, self.device, self.epoch, self.args)
        )
        if weights.gmm and not self.prior_started:
            start_prior(self.model, self.loaders["train"], self.device, self.args)
            for parameter in self.model.prior.parameters():
                self.optimizer.state.pop(parameter, None)  # momentum towards where it no longer is
            self.prior_started = True
        threshold = self.args.warmup_threshold
        if warming and threshold is not None and losses["loss_cls"] < threshold:
            self.warmup_over = True
            log.info("warm-up ends early after epoch %d: cross-entropy %.4f", self.epoch + 1, losses["loss_cls"])
        return losses

    def measure(self, split: str) -> Measurement:
        """Classify the images of a split."""
        predictions = evaluate(self.model, self.loaders[split], self.weights, self.device, self.args)
        return Measurement.of(predictions, self.datasets[split], self.about["class_counts"])

    def state(self) -> dict[str, Any]:
        """How far warm-up and prior are."""
        return {"warmup_over": self.warmup_over, "prior_started": self.prior_started}

    def show(self, board: Board) -> None:
        """Inputs above their reconstructions."""
        board.reconstructions(self.epoch, self.model, self.loaders[self.split], self.device, self.args.amp)
