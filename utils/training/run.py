"""A run: where it is, how it takes its steps and ends its epochs, how it is saved and restored.

What is trained, and on what, is the scripts' affair. A script's loop:

    with run.open():
        while run.epoch < args.epochs:
            for batch in run.steps(...):
                ...
                run.step(terms, ids)
            run.end_epoch(measurement, losses)
        result = finish(run, ...)  # of utils.training.headline
"""

import argparse
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from utils import stopping
from utils.cli.rules import changed_on_the_way
from utils.device import machine_of
from utils.distributed.world import World
from utils.errors import LostWorker, NotFinite, UserError
from utils.files import write_atomically
from utils.logs import progress, show_left_of_run
from utils.metrics import Measurement, Row
from utils.stopping import Stopped
from utils.training.board import Board
from utils.training.checkpoint import (
    Checkpoint,
    arguments_on,
    load_best,
    load_model_state,
    require_entries,
    save_checkpoint,
    warn_of_another_machine,
)
from utils.training.folder import RunFolder
from utils.training.layout import shown
from utils.training.optimisation import Schedule, build_scheduler, calmer, step_schedule
from utils.training.position import Position, own_position
from utils.training.resume import same_command
from utils.training.step import Stepper

log = logging.getLogger("dgcmm")

Batch = TypeVar("Batch")


class Run:
    """A training or a re-training under way. Only the main process writes.

    Args:
        kind: what its checkpoints are, 'train' or the name of an augmentation.
        args: the arguments of the script, complete.
        model: the DGCMM, or a plain classifier.
        optimizer: of the parameters that are trained.
        folder: where results go.
        split: what is measured after each epoch: 'test', or 'val' with a hold-out, on which the best epoch is chosen.
        about: what `resume.description` gave.
        world: the processes.
        state: what else a checkpoint holds and a resumed run gets back, plain values.
        scaler: of the loss in float16.

    Attributes:
        epoch: completed epochs.
        position: how far the running epoch is.
        history: rows of metrics.csv.
        best: epoch and balanced accuracy of the best epoch on 'val'.
        board: for TensorBoard, in the main process of an open run.
    """

    def __init__(
        self,
        kind: str,
        args: argparse.Namespace,
        model: nn.Module,
        optimizer: Optimizer,
        folder: RunFolder,
        split: str,
        about: Checkpoint,
        world: World,
        *,
        state: dict[str, int | bool | str] | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.kind, self.args, self.model, self.optimizer, self.world = kind, args, model, optimizer, world
        self.folder, self.split, self.about = folder, split, about
        self.state, self.scaler = state or {}, scaler
        self.epoch, self.position = 0, Position()
        self.history: list[Row] = []
        self.best: Row | None = None
        self.board: Board | None = None
        self._stepper = Stepper(optimizer, args.clip_grad, world, scaler)
        self._start_rates = [group["lr"] for group in optimizer.param_groups]
        self._totals: Tensor | None = None  # of the running epoch, on the device
        self._signum = 0  # the signal that asked the run to stop in its last step
        self._saved = True  # whether the checkpoint is of this very moment
        self._worth_saving = False  # whether an error leaves a state to go on from: whole steps, all finite
        self._went_back = False
        self._elapsed = 0.0  # seconds of the running epoch before `open`
        self._started = 0.0  # when the running epoch was, had it not been interrupted; set by `open`
        self._scheduler: Schedule | None = None
        self._keeps_previous = True
        self._machine = machine_of(world.device)
        self._best_beside: Path | None = None  # the best epoch beside the checkpoint that is continued

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Train inside the block: a signal is only noted; where the run can stop, it saves itself and ends.

        Raises:
            Stopped: by a signal; what was done is saved.
        """
        if self._went_back:
            self.save()  # before the best epoch, which may be forgotten, is replaced
        self._scheduler = build_scheduler(self.optimizer, self.args, self._start_rates, self.epoch)
        with contextlib.ExitStack() as stack:
            if self.world.is_main:
                self.board = Board(self.folder.board, self.folder.board_suffix, self.epoch)
                stack.push(self._close_board)
                if self.best and self._best_beside.resolve() != self.folder.best.resolve():
                    write_atomically(self.folder.best, lambda file: file.write(self._best_beside.read_bytes()))
            self._started = time.perf_counter() - self._elapsed
            stack.enter_context(stopping.held())
            try:
                yield
                self.world.check_stop()  # for a signal since the last epoch's end: figures may take long
            except Stopped as stop:
                if not self._saved:
                    self.save()
                    self.world.broadcast(None)  # no process ends before the main one has saved
                raise Stopped(stop.signum, self._farewell()) from stop
            except NotFinite:
                raise  # what was saved last is better
            except (UserError, LostWorker):
                if self._worth_saving and not self._saved:
                    self.save()
                    log.info("%s", self._farewell())
                raise

    def _close_board(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close TensorBoard's file; an error of it does not take the place of what has ended the run."""
        try:
            self.board.close()
        except UserError as error:
            if kind is None:
                raise
            log.warning("%s", error)

    def steps(self, batches: Iterable[Batch], sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield the batches that are left of the running epoch; each is answered by one `step`.

        Between two of them the run is saved (`--save-every`) or stopped, where all processes agree to.

        Args:
            batches: from step `position.step` on.
            sizes: samples of each step of the whole epoch, in all processes; `--max-steps` cuts it.
        """
        sizes = sizes[: self.args.max_steps]
        self._totals = torch.tensor(self.position.totals, dtype=torch.float64, device=self.world.device)
        self._saved = self._worth_saving = False
        done = sum(sizes[: self.position.step])
        name = f"epoch {self.epoch + 1}"
        with progress(name, total=sum(sizes), initial=done, unit="img", quiet=self.args.quiet) as bar:
            left = max(len(sizes) - self.position.step, 0)  # of more processes the last, small batch may be left out
            for batch in self._loaded(itertools.islice(batches, left)):
                yield batch
                step = self.position.step
                if not bar.disable:
                    show_left_of_run(bar, self.args.epochs - self.epoch - 1, self._epoch_seconds())
                bar.update(sizes[step - 1])
                if step % self.args.print_freq == 0:
                    mean = self._totals[0].item() / self.position.seen
                    log.info("%s, step %d/%d: loss %.4f", name, step, len(sizes), mean)
                due = self.args.save_every and step % self.args.save_every == 0 and step < len(sizes)
                if self._signum or due:
                    self._settle()
                    if self._signum:
                        raise Stopped(self._signum)
                    self.save()
        self._settle()
        self._worth_saving = self.world.size == 1

    def _loaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Give batches; where one cannot be loaded, the steps before it are worth saving: the images can be mended."""
        try:
            yield from batches
        except (UserError, LostWorker):
            if self.world.size == 1 and self.position.step:
                self._settle()
                self._worth_saving = True
            raise

    def _epoch_seconds(self) -> float | None:
        """Return the mean time of the last epochs, with as many measurements as usual; None in the first epoch."""
        times = [row["time"] for row in self.history[-max(3, self.args.eval_every) :]]
        return sum(times) / len(times) if times else None

    def step(self, terms: Sequence[Tensor | None], ids: Tensor) -> None:
        """Take the optimizer step of a batch.

        Args:
            terms: the loss, and what it consists of; scalars, None for a term that was not computed.
            ids: (B,) which samples they were made of, for messages.

        Raises:
            UserError: the loss or a gradient is not finite, in any process; no weight has been changed by it.
        """
        loss = terms[0]
        self._signum = self._stepper.take(loss, f"epoch {self.epoch + 1}, step {self.position.step + 1}", ids)
        values = [loss.new_zeros(()) if term is None else term.detach() for term in terms]
        self._totals = self._totals + torch.stack(values).double() * len(ids)
        self.position.step += 1
        self.position.seen += len(ids)
        self._saved = False

    def _settle(self) -> None:
        """Make sure that all steps so far were finite, and bring their sums to the host."""
        self._stepper.settle()
        self.position.totals = tuple(self._totals.tolist())

    def mean_terms(self) -> list[float]:
        """Return the means of the loss and its terms over the epoch's samples of all processes."""
        parts = self.world.gather((self.position.seen, self.position.totals))
        seen = sum(part[0] for part in parts)
        return [sum(values) / seen for values in zip(*(part[1] for part in parts), strict=True)]

    def warn_of_divergence(self, cross_entropy: float | None, class_counts: Sequence[float], first: float) -> None:
        """Warn if the running epoch's mean cross-entropy is far above that of guessing each class by its share.

        Far above is twice that, but at least 1.5 log K: of few and very unequal classes guessing is nearly always
        right, and the first steps are not. What began there has not diverged.

        Args:
            cross_entropy: in nats; None if it was not computed.
            class_counts: images or codes of each class in the epoch, or what is in proportion to them, (K,).
            first: the cross-entropy before the first step; inf if it is not known, and nothing is judged.
        """
        counts = torch.tensor(class_counts, dtype=torch.float64)
        guessing = torch.special.entr(counts / counts.sum()).sum().item()  # mean of -log p_y, p the class shares
        limit = max(2 * guessing, 1.5 * math.log(len(counts)), 1.01 * first)
        if cross_entropy is None or cross_entropy <= limit or not self.world.is_main:
            return
        log.warning(
            "epoch %d diverged: its mean cross-entropy is %.2f, guessing by class shares has %.2f; start anew and %s",
            self.epoch + 1,
            cross_entropy,
            guessing,
            calmer(self.args.clip_grad),
        )

    def is_measured(self) -> bool:
        """Tell whether the running epoch is one to measure: every N-th (`--eval-every`), and the last."""
        epoch = self.epoch + 1
        return epoch % self.args.eval_every == 0 or epoch == self.args.epochs

    def end_epoch(self, measurement: Measurement | None, losses: dict[str, float | None]) -> None:
        """Write the row of an epoch, keep it if it is the best, step the schedule and save.

        Args:
            measurement: of `split`; None in an epoch that is not measured, and in all processes but the main one.
            losses: means over the epoch.
        """
        self._worth_saving = False  # what fails from here on has to be done again with the epoch
        network, *prior = self.optimizer.param_groups
        rates = {"lr": network["lr"]}
        if prior:
            rates["lr_prior"] = prior[0]["lr"] if prior[0]["params"] else None
        self.epoch += 1
        self.position = Position()
        if self.world.is_main:
            self._record(measurement, losses | rates | {"time": time.perf_counter() - self._started})
        step_schedule(self._scheduler)
        self.save()
        if self.world.is_main:
            self._show_last()
            self.folder.write_rows("metrics.csv", self.history)
        self.world.check_stop()
        self._started = time.perf_counter()

    def add_measurement(self, measurement: Measurement | None) -> None:
        """Add to the row of the last epoch what was measured after it; None in all processes but the main one."""
        if measurement is not None:
            row = self.history.pop()
            self._record(measurement, {name: row[name] for name in row if name not in ("epoch", "split")})
            self._show_last()

    def _record(self, measurement: Measurement | None, rest: Row) -> None:
        """Keep and compare the numbers of an epoch; `rest` are its losses, learning rates and time."""
        row: Row = {"epoch": self.epoch, "split": None}
        if measurement is not None:
            row |= {"split": self.split, **measurement.numbers}
        row |= rest
        self.history.append(row)
        if row["split"] == "val" and (self.best is None or row["acsa"] > self.best["acsa"]):
            self.best = {"epoch": self.epoch, "acsa": row["acsa"]}
            self.folder.require_lock()
            save_checkpoint(self.folder.best, self._content(None, [(0, Position().totals)] * self.world.size))

    def _show_last(self) -> None:
        """Log the last row, and give it to TensorBoard: not before it is saved, as its disk may fail too."""
        row = self.history[-1]
        losses = [name for name in row if name.startswith("loss") and row[name] is not None]
        loss = " ".join(f"{name} {row[name]:.4f}" for name in losses)
        where = f"epoch {self.epoch}/{self.args.epochs}"
        found = f"{self.split}: {shown(row)}" if row["split"] else "not measured"
        log.info("%s: %s | %s | %.1f s", where, loss, found, row["time"])
        self.show(self.epoch, row)

    def show(self, epoch: int, row: Row) -> None:
        """Give a row of metrics.csv to TensorBoard; in the main process of an open run."""
        self.board.scalars(epoch, row)
        self.board.flush()

    def save(self, result: Row | None = None) -> None:
        """Write the checkpoint; all processes contribute their sums of the running epoch.

        Raises:
            UserError: it cannot be written, or the folder is another process's by now.
        """
        sums = self.world.gather_main((self.position.seen, self.position.totals))
        if sums is not None:
            self.folder.require_lock()
            previous = self.folder.previous if self._keeps_previous else None
            save_checkpoint(self.folder.checkpoint, self._content(result, sums), previous)
            self._keeps_previous = True
        self._saved = True

    def _content(self, result: Row | None, sums: list[tuple[int, tuple[float, ...]]]) -> Checkpoint:
        content = {
            "kind": self.kind,
            "epoch": self.epoch,
            "step": self.position.step,
            "sums": sums,
            "elapsed_time": time.perf_counter() - self._started if self.position.step else 0.0,
            "nodes": self.world.nodes,
            "machine": self._machine,
            **self.about,
            "result": result,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            **self.state,
        }
        return content | {"scaler": self.scaler.state_dict()} if self.scaler else content

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue where `checkpoint` was written, at `path`.

        Raises:
            UserError: another version wrote it, the model is another one, or its best epoch is missing.
        """
        require_entries(checkpoint, self.state, path)
        load_model_state(self.model, checkpoint, str(path))
        self.optimizer.load_state_dict(checkpoint["optimizer"])  # its learning rates are replaced by `open`
        self.epoch, self.best = checkpoint["epoch"], checkpoint["best"]
        self.history = list(checkpoint["history"])
        self.position, self._elapsed = own_position(checkpoint, self.world), checkpoint.get("elapsed_time", 0.0)
        self.state = {name: checkpoint[name] for name in self.state}
        if self.scaler:
            self.scaler.load_state_dict(checkpoint["scaler"])
        # else the last one is damaged or missing, or nobody has looked at it: it is not kept in place of the previous
        self._keeps_previous = path.resolve() == self.folder.checkpoint.resolve()
        self._saved = False  # here; it may come from another folder
        self._best_beside = path.parent / self.folder.best.name
        if self.world.is_main:
            warn_of_another_machine(checkpoint, self._machine, path)
            if self.best:
                self._require_best_beside(path, checkpoint)

    def _require_best_beside(self, path: Path, checkpoint: Checkpoint) -> None:
        """Raise a `UserError` if the best epoch of a checkpoint is missing, or is of a later one in another folder.

        In the run's own folder a later one is that of the next epoch, written just before its checkpoint, or of a
        continuation that is left. The latter does not belong to this run, which then goes on without a best epoch, and
        says so.
        """
        if not self._best_beside.exists():
            raise UserError(f"{path} has its best epoch in {self._best_beside}, which is missing: put it back")
        there = load_best(self._best_beside)["best"]
        replaced = f"{self._best_beside} has epoch {there['epoch']}, the best one of {path} was {self.best['epoch']}"
        if self._best_beside.resolve() != self.folder.best.resolve():
            if there != self.best:
                raise UserError(f"{replaced}: put that one back, or continue the run in its own folder")
            return
        next_epoch = checkpoint["epoch"] + 1
        changed = changed_on_the_way(self.args, arguments_on(checkpoint, self.world.nodes))
        if there["epoch"] > next_epoch or (there["epoch"] == next_epoch and changed):
            log.warning("%s: that one is lost, and the best of the epochs from here on counts", replaced)
            self.best = None

    def go_back_to(self, epoch: int) -> None:
        """Count `epoch` epochs as done (`--start-epoch`), seldom more than there were; the weights stay."""
        self._went_back = True
        if self.world.is_main and (self.epoch or self.position.step):
            log.warning(
                "--start-epoch %d: with the weights after %s; from here on this is another run", epoch, self.reached
            )
        self.epoch, self.position, self._elapsed = epoch, Position(), 0.0
        self.history = [row for row in self.history if row["epoch"] <= epoch]
        if self.best and self.best["epoch"] > epoch:
            self.best = None

    @property
    def reached(self) -> str:
        """The last thing done: `epoch 5/18`, or `epoch 6/18, step 9` within an epoch."""
        if not self.position.step:
            return f"epoch {self.epoch}/{self.args.epochs}"
        return f"epoch {self.epoch + 1}/{self.args.epochs}, step {self.position.step}"

    def _farewell(self) -> str:
        way_on = "--resume=auto" if self.kind == "train" else same_command(self.args)
        return f"saved after {self.reached} in {self.folder.checkpoint}; {way_on} continues"
