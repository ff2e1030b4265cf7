"""What training and re-training have in common: epochs, measurements, checkpoints and results."""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from utils import stopping
from utils.distributed.world import World
from utils.errors import UserError
from utils.files import write_atomically
from utils.stopping import Stopped
from utils.training.board import Board
from utils.training.checkpoint import FORMAT, load_checkpoint, load_model_state, plain, save_checkpoint
from utils.training.engine import Position
from utils.training.folder import RunFolder
from utils.training.measurement import Measurement, shown
from utils.training.optimisation import build_scheduler, end_epoch

log = logging.getLogger("dgcmm")


def description(args: argparse.Namespace, train: Any, test: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: model, data and arguments."""
    return {
        "format": FORMAT,
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


def finished_result(args: argparse.Namespace, checkpoint: dict[str, Any] | None) -> dict[str, Any] | None:
    """The stored result, if a checkpoint is that of a run that has no epoch left to train."""
    if checkpoint is None or getattr(args, "evaluate", False) or not checkpoint["result"]:
        return None
    if checkpoint["epoch"] < args.epochs or getattr(args, "start_epoch", None) is not None:
        return None
    log.info("this run is finished; its result:")
    return checkpoint["result"]


def print_result(result: dict[str, Any]) -> None:
    """The last line of a script on standard output: one JSON object, null for what is undefined."""
    print(json.dumps(result, allow_nan=False), flush=True)


class Run:
    """Epochs that are trained, measured and saved; a subclass says how an epoch is trained and measured.

    Only the main process writes; the others take part in what is computed together.

    Args:
        args: the arguments of the script, complete.
        model: the DGCMM.
        optimizer: of the parameters that are trained.
        folder: where results go.
        split: what is measured after each epoch: 'test', or 'val' with a hold-out, on which the best epoch is chosen.
        about: what `description` gave.
        world: the processes.

    Attributes:
        epoch: completed epochs.
        position: how far the running epoch is.
        history: rows of metrics.csv.
        best: epoch and balanced accuracy of the best epoch on 'val'.
    """

    kind: str  # what its checkpoints are, 'train' or the name of an augmentation
    continuation: str  # what the user has to do to go on

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        optimizer: Optimizer,
        folder: RunFolder,
        split: str,
        about: dict[str, Any],
        world: World,
    ) -> None:
        self.args, self.model, self.optimizer, self.world = args, model, optimizer, world
        self.start_rates = [group["lr"] for group in optimizer.param_groups]
        self.folder, self.split, self.about = folder, split, about
        self.epoch, self.position = 0, Position()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self._keeps_previous = True
        self._best_beside: Path | None = None  # the best epoch beside the checkpoint that is continued

    def train_steps(self) -> Iterator[int]:
        """Train the rest of epoch number `self.epoch`; yields where the run may be saved, see `engine.take_steps`."""
        raise NotImplementedError

    def end_training(self) -> dict[str, float | None]:
        """What follows the last step of an epoch; returns its mean losses."""
        raise NotImplementedError

    def measure(self, split: str) -> Measurement | None:
        """Measure the model as it is on a split; None but in the main process."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint of this kind holds besides the common entries."""
        return {}

    def show(self, board: Board) -> None:
        """Pictures for TensorBoard after an epoch."""

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue where `checkpoint` was written, at `path`."""
        load_model_state(self.model, checkpoint, str(path))
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.best = checkpoint["epoch"], checkpoint["best"]
        self.history = list(checkpoint["history"])
        self.position = self._own_position(checkpoint)
        self._keeps_previous = path != self.folder.previous  # else the next save would put a damaged file in its place
        self._best_beside = path.parent / self.folder.best.name
        if self.best and self.world.is_main and not self._best_beside.exists():
            raise UserError(f"{path} has its best epoch in {self._best_beside}, which is missing: put it back")

    def _own_position(self, checkpoint: dict[str, Any]) -> Position:
        """This process's part of the running epoch; another number of processes shares the sums in another way."""
        seen, totals = zip(*checkpoint["sums"], strict=True)
        if len(seen) != self.world.size:
            log.warning(
                "%d process(es) continue what %d began: batch norm sees other parts of each batch, so the numbers will "
                "differ from those of a run that was not interrupted",
                *(self.world.size, len(seen)),
            )
            sums = tuple(map(sum, zip(*totals, strict=True)))
            whole = (sum(seen), sums) if self.world.is_main else (0, (0.0,) * len(sums))
            return Position(checkpoint["step"], *whole)
        return Position(checkpoint["step"], seen[self.world.rank], tuple(totals[self.world.rank]))

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left, measure each, and write the results; returns the final JSON object.

        Raises:
            Stopped: by a signal; what was done is saved.
        """
        with stopping.held():
            try:
                return self._run()
            except Stopped as stop:
                raise self._farewell(stop.signum) from stop

    def _run(self) -> dict[str, Any]:
        scheduler = build_scheduler(self.optimizer, self.args, self.start_rates, self.epoch)
        board = None
        if self.world.is_main:
            board = Board(self.folder.board, self.folder.suffix or ".train", self.epoch)
            if self.best and self._best_beside.resolve() != self.folder.best.resolve():
                write_atomically(self.folder.best, lambda file: file.write(self._best_beside.read_bytes()))
        measurement = None
        while self.epoch < self.args.epochs:
            measurement = self._run_epoch(board)
            end_epoch(scheduler)
            self._save()
            if self.world.is_main:
                self.folder.write_rows("metrics.csv", self.history)
            self.world.check_stop()
        if board:
            board.close()
        return self._finish(measurement)

    def _run_epoch(self, board: Board | None) -> Measurement | None:
        started = time.perf_counter()
        rates = {self._rate_name(group): group["lr"] for group in self.optimizer.param_groups}
        for signum in self.train_steps():
            self._save()
            if signum:
                raise Stopped(signum)
        try:
            losses = self.end_training()
            measurement = self.measure(self.split)
        except Stopped:
            self._save()
            raise
        self.epoch += 1
        self.position = Position()
        if measurement is not None:
            row = {"epoch": self.epoch, "split": self.split, **measurement.numbers, **losses, **rates}
            self._record(row | {"time": time.perf_counter() - started}, losses, board)
        return measurement

    def _record(self, row: dict[str, Any], losses: dict[str, float | None], board: Board) -> None:
        """Keep, show and compare the numbers of an epoch."""
        self.history.append(row)
        loss = " ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
        where = f"epoch {self.epoch}/{self.args.epochs}"
        log.info("%s: %s | %s: %s | %.1f s", where, loss, self.split, shown(row), row["time"])
        board.scalars(self.epoch, row)
        self.show(board)
        board.flush()
        if self.split == "val" and (self.best is None or row["acsa"] > self.best["acsa"]):
            self.best = {"epoch": self.epoch, "acsa": row["acsa"]}
            save_checkpoint(self.folder.best, self._content(None, [(0, Position().totals)] * self.world.size))

    def _farewell(self, signum: int) -> Stopped:
        done = f"epoch {self.epoch}" if not self.position.step else f"epoch {self.epoch + 1}, step {self.position.step}"
        return Stopped(signum, f"saved after {done} in {self.folder.checkpoint}; {self.continuation} continues")

    @staticmethod
    def _rate_name(group: dict[str, Any]) -> str:
        return "lr_prior" if group.get("name") == "prior" else "lr"

    def _content(self, result: dict[str, Any] | None, sums: list[Any]) -> dict[str, Any]:
        return {
            **{"kind": self.kind, "epoch": self.epoch, "step": self.position.step, "sums": sums},
            **{"nodes": self.world.nodes, **self.about, "result": result},
            **{"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()},
            **{"history": self.history, "best": self.best},
            **self.state(),
        }

    def _save(self, result: dict[str, Any] | None = None) -> None:
        """Write the checkpoint; all processes contribute their sums of the running epoch."""
        sums = self.world.gather_main((self.position.seen, self.position.totals))
        if sums is not None:
            previous = self.folder.previous if self._keeps_previous else None
            save_checkpoint(self.folder.checkpoint, self._content(result, sums), previous)
            self._keeps_previous = True

    def _finish(self, measurement: Measurement | None) -> dict[str, Any]:
        """The headline: the last epoch on the test set or, with a hold-out, the best epoch, measured there once."""
        epoch, blank = self.epoch, {}
        if self.split == "val":
            epoch, measurement = self._measure_best()
            blank = dict.fromkeys(self.history[-1]) if self.history else {}
        elif not self.world.share(measurement is not None):
            measurement = self.measure("test")
        result: dict[str, Any] = {}
        if measurement is not None:
            rows = list(self.history)
            if self.split == "val":
                rows.append(blank | {"epoch": epoch, "split": "test", **measurement.numbers})
                log.info("best epoch %d | test: %s", epoch, shown(measurement.numbers))
            measurement.write(self.folder, epoch, "test")
            result = {"epoch": epoch, "split": "test", **measurement.numbers}
            result["time"] = math.fsum(row["time"] for row in self.history)
            self.folder.write_rows("metrics.csv", rows)
        self._save(result)
        return result

    def _measure_best(self) -> tuple[int, Measurement | None]:
        """(best epoch, its measurement on the test set); the model is as before."""
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        best = self.world.from_main(self._load_best)
        load_model_state(self.model, best, str(self.folder.best))
        try:
            return best["epoch"], self.measure("test")
        finally:
            self.model.load_state_dict(last)

    def _load_best(self) -> dict[str, Any]:
        """The best epoch's checkpoint.

        After a crash between the saving of the best epoch and of the run, and a continuation on other processes, it can
        be of an epoch that was better in the first course of the run than any in the second: then that one counts.
        """
        best = load_checkpoint(self.folder.best)
        if best["data_sha256"] != self.about["data_sha256"] or best["best"]["acsa"] < self.best["acsa"]:
            raise UserError(
                f"{self.folder.best} holds epoch {best['epoch']}, the best one was {self.best['epoch']}: it belongs to "
                "another run; put the right one back"
            )
        self.best = best["best"]
        return {"epoch": best["epoch"], "state_dict": best["state_dict"]}
