"""A training run: epochs, measurements, checkpoints and results, and how it is resumed."""

import argparse
import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.arguments import DATA_FLAGS, MODEL_FLAGS, SCORING_FLAGS, TRAINING_FLAGS, adopt
from utils.board import Board
from utils.checkpoint import load_checkpoint, load_model_state, plain, save_checkpoint
from utils.engine import TERMS, Predictions, evaluate, train_one_epoch
from utils.errors import UserError
from utils.metrics import compute_metrics, mutual_information, per_class_metrics
from utils.optimisation import build_optimizer, build_scheduler
from utils.run_folder import RunFolder

log = logging.getLogger("dgcmm")

SHOWN = ("acc", "acsa", "f_ma", "g_ma", "many", "median", "low")


def find_checkpoint(args: argparse.Namespace, given: set[str], folder: RunFolder) -> dict[str, Any] | None:
    """The checkpoint that `--resume` names for train.py, or None for a new run; its flags are adopted into `args`.

    Raises:
        UserError: it is missing, damaged or of another run, or the run folder holds a run that nothing asked for.
    """
    if args.evaluate and not args.resume:
        raise UserError("--evaluate needs --resume: name the checkpoint to measure")
    path = folder.checkpoint.parent / "checkpoint.pth" if args.resume == "auto" else Path(args.resume or "")
    if args.resume == "auto" and not args.evaluate and not path.exists():
        return None
    own = bool(args.resume) and path.resolve().parent == folder.path.resolve()
    if own and args.overwrite and not args.evaluate:
        raise UserError("--overwrite would delete the run that --resume continues: give one of the two")
    if folder.holds_run() and not (args.overwrite or own or args.evaluate):
        raise UserError(f"--logdir {folder.path} holds a run: continue it (--resume=auto), --overwrite it, or name another")
    if not args.resume:
        return None
    checkpoint = load_checkpoint(path)
    if not args.evaluate and checkpoint["kind"] != "train":
        raise UserError(f"{path} is the result of an augmentation: it can be evaluated (--evaluate), not trained on")
    if checkpoint["dataset"] != args.dataset:
        raise UserError(f"{path} was trained on {checkpoint['dataset']}, not on {args.dataset}")
    flags = MODEL_FLAGS + DATA_FLAGS + SCORING_FLAGS + (() if args.evaluate else TRAINING_FLAGS)
    adopt(args, given, checkpoint["args"], flags, str(path))
    return checkpoint


def description(args: argparse.Namespace, train: Any, test: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: model, data and arguments."""
    return {
        "format": 1,
        "arch": args.arch,
        "dataset": args.dataset,
        "class_names": list(train.classes),
        "class_counts": train.class_counts,
        "args": plain(vars(args)),
        "data_sha256": {"train": train.fingerprint(), "test": test.fingerprint()},
    }


def require_same_data(checkpoint: dict[str, Any], about: dict[str, Any], source: str) -> None:
    """Raise a `UserError` if a checkpoint was made on other images or labels than those at hand."""
    for split, sha256 in about["data_sha256"].items():
        if checkpoint["data_sha256"][split] != sha256:
            raise UserError(f"the {split} images are not those of {source}: check --datadir, or train anew")


@dataclass
class Measurement:
    """The numbers of one evaluation, and what they were computed from."""

    numbers: dict[str, Any]
    predictions: Predictions
    dataset: Any
    train_counts: list[int]

    @classmethod
    def of(cls, predictions: Predictions, dataset: Any, train_counts: list[int]) -> "Measurement":
        """Compute all metrics, and how the prior's components match the classes."""
        numbers = compute_metrics(predictions.targets, predictions.probabilities, train_counts)
        numbers["live_components"] = len(set(predictions.components.tolist()))
        numbers["mutual_information"] = mutual_information(predictions.components, predictions.targets)
        return cls(numbers, predictions, dataset, train_counts)

    def write(self, folder: RunFolder, epoch: int, split: str) -> None:
        """metrics_per_class.csv and predictions.csv."""
        data, found = self.dataset, self.predictions
        rows = per_class_metrics(found.targets, found.probabilities, self.train_counts, data.classes)
        folder.write_rows("metrics_per_class.csv", [{"epoch": epoch, "split": split} | row for row in rows])
        folder.write_predictions(data.ids[found.indices], found.targets, found.probabilities, data.classes)


def shown(numbers: dict[str, Any]) -> str:
    """The headline metrics in a line."""
    return ", ".join(f"{name} {'-' if numbers[name] is None else format(numbers[name], '.4f')}" for name in SHOWN)


def print_result(result: dict[str, Any]) -> None:
    """The last line of a script on standard output: one JSON object, null for what is undefined."""
    print(json.dumps(result, allow_nan=False), flush=True)


@dataclass
class TrainingRun:
    """Everything one run of train.py needs, and the state that a checkpoint carries from epoch to epoch.

    Attributes:
        model: the DGCMM, on `device`.
        loaders: batches of 'train', of the measured split, and of 'test'.
        datasets: the data sets behind them, by the same names.
        split: name of the split that is measured after each epoch.
        weights: of the loss terms.
        warmup_weights: the same during warm-up.
    """

    args: argparse.Namespace
    model: nn.Module
    loaders: dict[str, Any]
    datasets: dict[str, Any]
    split: str
    weights: Any
    warmup_weights: Any
    folder: RunFolder
    device: torch.device
    about: dict[str, Any]
    epoch: int = 0  # completed
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    warmup_over: bool = False

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.model, self.args)

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue where `checkpoint` was written, or at `--start-epoch`."""
        load_model_state(self.model, checkpoint, str(path))
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        start = self.args.start_epoch
        self.epoch = checkpoint["epoch"] if start is None else start
        self.history = [row for row in checkpoint["history"] if row["epoch"] <= self.epoch]
        self.warmup_over = checkpoint["warmup_over"]
        self.best = checkpoint["best"]
        beside = path.parent / self.folder.best.name
        if self.best and not self.folder.best.exists() and beside.exists():
            self.folder.path.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(beside, self.folder.best)

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left, measure each, and write the results; returns the final JSON object."""
        scheduler = build_scheduler(self.optimizer, self.args, self.epoch)
        for group, lr in zip(self.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = lr
        board = Board(self.folder.path, ".train", self.epoch)
        measurement = None
        while self.epoch < self.args.epochs:
            measurement = self._run_epoch(board)
            scheduler.step()
            self._save()
            self.folder.write_rows("metrics.csv", self.history)
        board.close()
        return self._finish(measurement)

    def _run_epoch(self, board: Board) -> Measurement:
        started = time.perf_counter()
        args, epoch = self.args, self.epoch
        warming = epoch < args.warmup_epochs and not self.warmup_over
        weights = self.warmup_weights if warming else self.weights
        losses = train_one_epoch(
            self.model, self.loaders["train"], self.optimizer, weights, self.device, epoch, args
        )
        self.epoch += 1
        threshold = args.warmup_threshold
        if warming and threshold is not None and losses["loss_cls"] < threshold:
            self.warmup_over = True
            log.info("warm-up over after epoch %d: cross-entropy %.4f", self.epoch, losses["loss_cls"])
        measurement = self._measure(self.split)
        rates = {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        row = {
            **{"epoch": self.epoch, "split": self.split, **measurement.numbers, **losses},
            **{"lr": rates["lr_network"], "lr_prior": rates["lr_prior"]},
            "time": time.perf_counter() - started,
        }
        self.history.append(row)
        loss = " ".join(f"{name} {losses[name]:.4f}" for name in TERMS if losses[name] is not None)
        log.info("epoch %d/%d: %s | %s: %s | %.1f s", self.epoch, args.epochs, loss, self.split, shown(row), row["time"])
        board.scalars(self.epoch, row)
        board.reconstructions(self.epoch, self.model, self.loaders[self.split], self.device, args.amp)
        if self.split == "val" and (self.best is None or row["acsa"] > self.best["acsa"]):
            self.best = {"epoch": self.epoch, "acsa": row["acsa"]}
            save_checkpoint(self.folder.best, self._content(None))
        return measurement

    def _measure(self, split: str) -> Measurement:
        predictions = evaluate(self.model, self.loaders[split], self.weights, self.device, self.args)
        return Measurement.of(predictions, self.datasets[split], self.about["class_counts"])

    def _content(self, result: dict[str, Any] | None) -> dict[str, Any]:
        return {
            **{"kind": "train", "epoch": self.epoch, **self.about, "result": result},
            **{"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()},
            **{"history": self.history, "best": self.best, "warmup_over": self.warmup_over},
        }

    def _save(self, result: dict[str, Any] | None = None) -> None:
        save_checkpoint(self.folder.checkpoint, self._content(result), self.folder.previous)

    def _finish(self, measurement: Measurement | None) -> dict[str, Any]:
        """The headline: the last epoch on the test set or, with a hold-out, the best epoch, measured there once."""
        rows, epoch = list(self.history), self.epoch
        if self.split == "val":
            live = {name: value.clone() for name, value in self.model.state_dict().items()}
            load_model_state(self.model, load_checkpoint(self.folder.best), str(self.folder.best))
            epoch = self.best["epoch"]
            measurement = self._measure("test")
            blank = dict.fromkeys(self.history[-1], None)
            rows.append(blank | {"epoch": epoch, "split": "test", **measurement.numbers})
            self.model.load_state_dict(live)
        elif measurement is None:
            measurement = self._measure("test")
        measurement.write(self.folder, epoch, "test")
        result = {"epoch": epoch, "split": "test", **measurement.numbers}
        result["time"] = math.fsum(row["time"] for row in self.history)
        self._save(result)
        self.folder.write_rows("metrics.csv", rows)
        return result
