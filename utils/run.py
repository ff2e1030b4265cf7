"""What training and re-training have in common: epochs, measurements, checkpoints and results."""

import argparse
import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from utils.board import Board
from utils.checkpoint import load_checkpoint, load_model_state, plain, save_checkpoint
from utils.errors import UserError
from utils.measurement import Measurement, shown
from utils.optimisation import build_scheduler
from utils.run_folder import RunFolder

log = logging.getLogger("dgcmm")


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


def print_result(result: dict[str, Any]) -> None:
    """The last line of a script on standard output: one JSON object, null for what is undefined."""
    print(json.dumps(result, allow_nan=False), flush=True)


class Run:
    """Epochs that are trained, measured and saved; a subclass says how an epoch is trained and measured.

    Args:
        args: the arguments of the script, complete.
        model: the DGCMM.
        optimizer: of the parameters that are trained.
        folder: where results go.
        split: what is measured after each epoch: 'test', or 'val' with a hold-out, on which the best epoch is chosen.
        about: what `description` gave.

    Attributes:
        epoch: completed epochs.
        history: rows of metrics.csv.
        best: epoch and balanced accuracy of the best epoch on 'val'.
    """

    kind: str  # what its checkpoints are, 'train' or the name of an augmentation

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        optimizer: Optimizer,
        folder: RunFolder,
        split: str,
        about: dict[str, Any],
    ) -> None:
        self.args, self.model, self.optimizer = args, model, optimizer
        self.start_rates = [group["lr"] for group in optimizer.param_groups]
        self.folder, self.split, self.about = folder, split, about
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def train_epoch(self) -> dict[str, float | None]:
        """Train epoch number `self.epoch`; returns its mean losses."""
        raise NotImplementedError

    def measure(self, split: str) -> Measurement:
        """Measure the model as it is on a split."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint of this kind holds besides the common entries."""
        return {}

    def show(self, board: Board) -> None:
        """Pictures for TensorBoard after an epoch."""

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue where `checkpoint` was written."""
        load_model_state(self.model, checkpoint, str(path))
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.best = checkpoint["epoch"], checkpoint["best"]
        self.history = list(checkpoint["history"])
        beside = path.parent / self.folder.best.name
        if self.best and not self.folder.best.exists():
            if not beside.exists():
                raise UserError(f"{path} has its best epoch in {beside}, which is missing: put it back")
            self.folder.path.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(beside, self.folder.best)

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left, measure each, and write the results; returns the final JSON object."""
        scheduler = build_scheduler(self.optimizer, self.args, self.start_rates, self.epoch)
        board = Board(self.folder.path, self.folder.suffix or ".train", self.epoch)
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
        rates = {self._rate_name(group): group["lr"] for group in self.optimizer.param_groups}
        losses = self.train_epoch()
        self.epoch += 1
        measurement = self.measure(self.split)
        row = {"epoch": self.epoch, "split": self.split, **measurement.numbers, **losses, **rates}
        row["time"] = time.perf_counter() - started
        self.history.append(row)
        loss = " ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
        where = f"epoch {self.epoch}/{self.args.epochs}"
        log.info("%s: %s | %s: %s | %.1f s", where, loss, self.split, shown(row), row["time"])
        board.scalars(self.epoch, row)
        self.show(board)
        if self.split == "val" and (self.best is None or row["acsa"] > self.best["acsa"]):
            self.best = {"epoch": self.epoch, "acsa": row["acsa"]}
            save_checkpoint(self.folder.best, self._content(None))
        return measurement

    @staticmethod
    def _rate_name(group: dict[str, Any]) -> str:
        return "lr_prior" if group.get("name") == "prior" else "lr"

    def _content(self, result: dict[str, Any] | None) -> dict[str, Any]:
        return {
            **{"kind": self.kind, "epoch": self.epoch, **self.about, "result": result},
            **{"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()},
            **{"history": self.history, "best": self.best},
            **self.state(),
        }

    def _save(self, result: dict[str, Any] | None = None) -> None:
        save_checkpoint(self.folder.checkpoint, self._content(result), self.folder.previous)

    def _finish(self, measurement: Measurement | None) -> dict[str, Any]:
        """The headline: the last epoch on the test set or, with a hold-out, the best epoch, measured there once."""
        rows, epoch = list(self.history), self.epoch
        if self.split == "val":
            last = {name: value.clone() for name, value in self.model.state_dict().items()}
            load_model_state(self.model, load_checkpoint(self.folder.best), str(self.folder.best))
            epoch = self.best["epoch"]
            measurement = self.measure("test")
            self.model.load_state_dict(last)
            blank = dict.fromkeys(self.history[-1])
            rows.append(blank | {"epoch": epoch, "split": "test", **measurement.numbers})
            log.info("best epoch %d | test: %s", epoch, shown(measurement.numbers))
        measurement = measurement or self.measure("test")
        measurement.write(self.folder, epoch, "test")
        result = {"epoch": epoch, "split": "test", **measurement.numbers}
        result["time"] = math.fsum(row["time"] for row in self.history)
        self._save(result)
        self.folder.write_rows("metrics.csv", rows)
        return result
