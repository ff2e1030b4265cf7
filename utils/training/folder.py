"""The folder of a run: who may write into it, and the files that it holds."""

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import BaseFileLock, Timeout

from utils.errors import UserError
from utils.files import write_atomically, write_table, write_text
from utils.locks import LOCK_NAME, take_lock
from utils.logs import end_log_file, log_to_file
from utils.metrics import Measurement, Row, exact, per_class_metrics
from utils.training.layout import (
    BEST,
    CODES,
    FIGURES,
    LAST,
    MEASURED,
    NAMES,
    PICTURES,
    PREDICTIONS,
    PROJECTED,
    PROJECTOR,
    RESULTS,
    ROBUSTNESS,
    SUFFIXES,
    is_of_run,
    previous_of,
    start_times,
    with_suffix,
)

log = logging.getLogger("dgcmm")

MEASURING = "_measuring"  # of the lock of scripts/baselines.py and scripts/robustness.py


class RunFolder:
    """One script's view of a run folder; its files carry `suffix` before their extension.

    Args:
        path: the folder; created by `open`.
        suffix: '' for train.py, '_eval', '_aug' or '_aug_ftl', and of what is measured later '_baselines' and
            '_robustness'.
    """

    def __init__(self, path: str | Path, suffix: str = "") -> None:
        self.path = Path(path)
        self.suffix = suffix
        self._lock: BaseFileLock | None = None
        self._lock_inode = 0  # of its file, which may be another one later
        self._seen: list[object] | None = None
        self._log: logging.Handler | None = None
        self._log_start = 0  # of what is said since `open`, bytes
        self._warned = False  # of results of an earlier model

    def file(self, name: str) -> Path:
        """Path of a file of this script, suffix included."""
        return self.path / with_suffix(name, self.suffix)

    @property
    def checkpoint(self) -> Path:
        """This script's own checkpoint."""
        return self.file(LAST)

    @property
    def previous(self) -> Path:
        """The checkpoint before the last."""
        return previous_of(self.checkpoint)

    @property
    def best(self) -> Path:
        """The best epoch's checkpoint, with a hold-out."""
        return self.file(BEST)

    @property
    def board(self) -> Path:
        """Where TensorBoard's file lies: apart for each script, as TensorBoard takes a folder for a run."""
        return self.path / self.suffix.strip("_")

    @property
    def board_suffix(self) -> str:
        """How the name of TensorBoard's file ends."""
        return self.suffix or ".train"

    @property
    def figures(self) -> Path:
        """Where figures lie, of all scripts."""
        return self.path / PICTURES

    def figure(self, name: str) -> Path:
        """Path of the PNG of a figure of this script, one of `FIGURES`."""
        return self.figures / f"{name}{self.suffix}.png"

    def remove_figures(self) -> None:
        """Delete this script's figures, of an earlier result."""
        for name in FIGURES:
            self.figure(name).unlink(missing_ok=True)

    def holds_run(self) -> bool:
        """Tell whether this script has already left results here."""
        return any(os.path.exists(path) for path in (self.file("metrics.csv"), self.checkpoint, self.previous))

    def _require_no_foreign_files(self, overwrite: bool) -> None:
        """Raise a `UserError` if this script would replace a table of predictions that is of no run."""
        path = self.file("predictions.csv")
        if path.exists() and not overwrite and not is_of_run(path):
            raise UserError(f"{path} is of no run, and would be replaced: move it, or name another --logdir")

    def look(self) -> None:
        """Remember what is here: the next `open` refuses to go on if another process has changed it by then."""
        self._seen = self._state()

    def _state(self) -> list[object]:
        """Tell the files that a run is continued from by what changes when they are written.

        Of a re-training or an evaluation also when the training in the folder began: one that takes the place of it
        has another model.
        """
        found: list[object] = []
        if self.suffix:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                found.append(start_times(json.loads((self.path / "args.json").read_text()))[0])
        for path in (self.checkpoint, self.previous, self.file("metrics.csv")):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_ino, status.st_mtime_ns))
        return found

    def check_place(self, overwrite: bool) -> None:
        """Raise a `UserError` if the folder cannot be written, created, or has what is not ours; long before `open`."""
        place = next(path for path in (self.path, *self.path.absolute().parents) if os.path.exists(path))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            reason = "no permission" if place.is_dir() else f"{place} is no folder"
            raise self._unwritable(reason)
        self._require_no_foreign_files(overwrite)

    def _unwritable(self, reason: str) -> UserError:
        return UserError(f"--logdir {self.path} cannot be written ({reason}): name another")

    def open(self, overwrite: bool = False) -> "RunFolder":
        """Create the folder, lock it for this script, delete earlier results if asked to, and start the log file.

        Raises:
            UserError: it cannot be written, or another process is at work in it, or was since `look`.
        """
        try:
            self._take(overwrite)
            path = self.file("log.txt")
            self._log_start = path.stat().st_size if path.exists() else 0
            self._log = log_to_file(path)
            if self.suffix != "_eval" and not self._warned:
                self._warn_of_what_an_earlier_model_made()
        except BaseException:
            self.close()
            raise
        return self

    def _take(self, overwrite: bool) -> None:
        """Create the folder, lock it for this process alone, and delete an earlier run if asked to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path / f"{LOCK_NAME}{self.suffix}")
            with contextlib.suppress(FileNotFoundError):  # a file system without locks may have none
                self._lock_inode = os.stat(self._lock.lock_file).st_ino
            if self._seen not in (None, self._state()):
                raise UserError(f"--logdir {self.path}: another process has worked there meanwhile: repeat the command")
            self._seen = None
            if overwrite:
                self._clear_alone()
        except Timeout as error:
            raise UserError(f"--logdir {self.path}: another process is at work there; wait, or name another") from error
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def make_way(self) -> None:
        """Delete what this script left (`--overwrite`), just before the new is written: `open` has left it there.

        Of the log file the lines since `open` stay.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.file("metrics.csv").unlink(missing_ok=True)  # it is written last: what is killed has no result
            end_log_file(self._log)
            path = self.file("log.txt")
            said = path.read_bytes()[self._log_start :] if path.exists() else b""
            write_atomically(path, lambda file: file.write(said))
            self._clear(keep=path)
            self._log = log_to_file(path)
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def close(self) -> None:
        """Release the lock and end the log file."""
        if self._log is not None:
            end_log_file(self._log)
        if self._lock is not None:
            self._lock.release()

    def require_lock(self) -> None:
        """Raise a `UserError` if the folder was deleted and made again: what is there now is of another process."""
        if not self._lock_inode:
            return
        try:
            there = os.stat(self._lock.lock_file).st_ino
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        if there != self._lock_inode:
            raise UserError(f"--logdir {self.path} was deleted and made again while this process was at work: it ends")

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Hold a lock on a finished run inside the block: nobody else measures it, and no training overwrites it.

        Raises:
            UserError: the folder is none that can be written, or another process measures it.
        """
        if not os.path.exists(self.path):
            raise UserError(f"there is no folder {self.path}: name that of a run")
        if not self.path.is_dir():
            raise UserError(f"{self.path} is a file: name the folder of the run")
        if not os.access(self.path, os.W_OK | os.X_OK):  # though a lock may be there
            raise UserError(f"{self.path} cannot be written (no permission): copy the run, and name the copy")
        try:
            lock = take_lock(self.path / f"{LOCK_NAME}{MEASURING}")
        except Timeout as error:
            raise UserError(f"{self.path}: another process measures this run: wait until it has ended") from error
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): copy the run, and name the copy"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn_of_what_an_earlier_model_made(self) -> None:
        """Warn of results beside a training or re-training that goes on: they were made of the model as it is now."""
        what, made, measured = "re-training", [], [ROBUSTNESS]
        if not self.suffix:
            what, measured = "training", [name for name in MEASURED if name.startswith("metrics_")]
            made = [result for suffix, result in RESULTS.items() if suffix and RunFolder(self.path, suffix).holds_run()]
        made += [name for name in measured if (self.path / name).exists()]
        self._warned = True
        if made:
            text = "%s holds results of the model before this %s: %s; make them anew after it, with --overwrite"
            log.warning(text, self.path, what, ", ".join(made))

    def _clear_alone(self) -> None:
        """Delete results while no script is at work on them; raises `Timeout` if one is."""
        with contextlib.ExitStack() as stack:
            for suffix in (*SUFFIXES[1:], MEASURING) if not self.suffix else ():
                if (lock := self.path / f"{LOCK_NAME}{suffix}").exists():
                    stack.callback(take_lock(lock).release)
            self._clear()

    def _clear(self, keep: Path | None = None) -> None:
        """Delete this script's results but for a file to keep; with train.py's goes all that was made of its model."""
        if not self.suffix:
            for name in (*MEASURED, *CODES):
                self.file(name).unlink(missing_ok=True)
        for suffix in SUFFIXES if not self.suffix else (self.suffix,):
            folder = RunFolder(self.path, suffix)
            folder.remove_figures()
            files = [*map(folder.file, NAMES), folder.board / PROJECTOR]
            for path in [*files, folder.checkpoint, folder.previous, folder.best]:
                if path != keep:
                    path.unlink(missing_ok=True)
            shutil.rmtree(folder.board / PROJECTED, ignore_errors=True)
            for path in folder.board.glob(f"events.out.tfevents.*{folder.board_suffix}"):
                path.unlink()

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Write a CSV file in one piece.

        The keys of the longest row are the header; None, and what a row lacks, become empty cells.
        """
        write_table(self.file(name), list(max(rows, key=len)), rows)

    def write_subset(self, rows: np.ndarray) -> None:
        """Write subset.txt: rows of the source's training split that this run trains on, one a line."""
        write_text(self.file("subset.txt"), "".join(f"{row}\n" for row in rows))

    def write_health(self, found: Row) -> None:
        """Write health.json: what the decoder rebuilds at the end of a training."""
        write_text(self.file("health.json"), json.dumps(found, indent=2) + "\n")

    def write_pictures(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write pictures.npz, see `utils.figures.sheets`."""
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomically(self.file("pictures.npz"), lambda file: file.write(content.getvalue()))

    def write_measurement(self, measurement: Measurement, epoch: int) -> None:
        """Write metrics_per_class.csv and predictions.csv of an evaluation on the test set after `epoch`."""
        found, classes = measurement.predictions, measurement.classes
        rows = per_class_metrics(found.targets, found.probabilities, measurement.train_counts, classes)
        self.write_rows("metrics_per_class.csv", [{"epoch": epoch, "split": "test"} | row for row in rows])
        self._write_predictions(measurement.ids[found.indices], found.targets, found.probabilities, classes)

    def _write_predictions(
        self, ids: np.ndarray, targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
    ) -> None:
        """Write predictions.csv: sample id, target, prediction (class numbers), probability of each class."""
        predictions = probabilities.argmax(axis=1)
        columns = [f"p_{label}" for label in classes]
        rows = (
            {"id": name, "target": int(target), "prediction": int(prediction)}
            | dict(zip(columns, exact(of_image), strict=True))
            for name, target, prediction, of_image in zip(ids, targets, predictions, probabilities, strict=True)
        )
        write_table(self.file("predictions.csv"), [*PREDICTIONS, *columns], rows)
