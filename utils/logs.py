"""What a run says: log lines on standard output and in log.txt, warnings and progress bars on standard error."""

import contextlib
import copy
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from utils import streams
from utils.files import unwritable, writing

log = logging.getLogger("dgcmm")

MOST_KEPT = 1000  # lines that wait for a log file


class _Console(logging.Handler):
    """Information to standard output, warnings to standard error, around the progress bar that may be there.

    Args:
        rank: of this process; one that is not the main one keeps its warnings until `share_warnings`.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.warnings: list[str] = []
        self.shared = False

    def emit(self, record: logging.LogRecord) -> None:
        loud, message = record.levelno >= logging.WARNING, record.getMessage()
        if loud and not self.shared:
            self.warnings.append(message)
            if self.rank:
                return
        prefix = "warning: " if loud else ""
        whose = f"rank {self.rank}: " if self.rank else ""
        stream = sys.stderr if loud else sys.stdout
        with contextlib.suppress(OSError):  # nobody listens any more, or the disk is full: no reason to end a run
            tqdm.write(prefix + whose + message, file=stream)
            stream.flush()  # a file, too, shows how far a run is


class _Kept(logging.Handler):
    """What is said while there is no log file, for the one that will be opened: the last `MOST_KEPT` lines.

    Attributes:
        records: with their text in place of its parts, so that another process can take them.
        file: the log file that is open; None if there is none.
    """

    def __init__(self, said: Iterable[logging.LogRecord]) -> None:
        super().__init__()
        self.records = deque(said, MOST_KEPT)
        self.file: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.file is None:
            kept = copy.copy(record)
            kept.msg, kept.args = record.getMessage(), None
            self.records.append(kept)

    def hand_over(self, file: logging.Handler) -> None:
        """Write what was kept; from now on `file` gets each line itself."""
        while self.records:
            file.handle(self.records[0])
            self.records.popleft()
        self.file = file


def said_so_far() -> list[logging.LogRecord]:
    """List what no log file has had yet, for `start_logging`, here or in a process that this one starts."""
    return [record for kept in _keepers() for record in kept.records]


def go_on_from(said: Iterable[logging.LogRecord]) -> None:
    """Keep what `said_so_far` gave in another process, until this one starts its own logging with it."""
    log.addHandler(_Kept(said))


def _keepers() -> list[_Kept]:
    return [handler for handler in log.handlers if isinstance(handler, _Kept)]


def start_logging(quiet: bool, rank: int = 0, said: Iterable[logging.LogRecord] = ()) -> None:
    """Send the log to the console: warnings only if `quiet`, or if this is not the main process.

    A log file that is opened later has all that was said from here on.

    Args:
        quiet: print warnings only.
        rank: of this process.
        said: what has been said of the same run before, which such a file has too.
    """
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a process that ends at once leaves
    streams.escape_unprintable()
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    console = _Console(rank)
    console.setLevel(logging.WARNING if quiet or rank else logging.INFO)
    log.addHandler(console)
    log.addHandler(_Kept(said))
    log.setLevel(logging.INFO)
    log.propagate = False


def share_warnings(gather: Callable[[list[str]], list[list[str]]], is_main: bool) -> None:
    """Print, in the main process, warnings that only others have had so far; after this each prints its own.

    Args:
        gather: gives the lists of all processes, in the order of their ranks.
        is_main: whether this is the main process.
    """
    console = next(handler for handler in log.handlers if isinstance(handler, _Console))
    console.shared = True
    told = gather(console.warnings)
    for rank, messages in enumerate(told if is_main else ()):
        for message in messages:
            if message not in told[0]:
                log.warning("rank %d: %s", rank, message)


class _LogFile(logging.FileHandler):
    """A log file; a full disk under it is a `UserError`, not a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise unwritable(Path(self.baseFilename), error) from error
        super().handleError(record)


def log_to_file(path: Path) -> logging.Handler:
    """Append the log to a file too, with date and time, first what no file has had yet; returns the handler.

    Raises:
        UserError: the file cannot be written, now or with any later line.
    """
    with writing(path):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    try:
        for kept in _keepers():
            kept.hand_over(handler)
    except BaseException:
        end_log_file(handler)
        raise
    log.addHandler(handler)
    return handler


def end_log_file(handler: logging.Handler) -> None:
    """End what `log_to_file` began; what is said now is for the next one."""
    log.removeHandler(handler)
    for kept in _keepers():
        kept.file = None
    with contextlib.suppress(OSError):  # of a disk that is full, which has been said
        handler.close()


def show_left_of_run(bar: tqdm, epochs_after: int, epoch_seconds: float | None) -> None:
    """Write beside the bar of an epoch what is left of the run, with the next update.

    Args:
        bar: over the epoch's images.
        epochs_after: epochs that follow.
        epoch_seconds: of one; None if none has been run yet: as many as the running one takes.
    """
    done = bar.n - bar.initial
    if not done:
        return
    pace = bar.format_dict["elapsed"] / done
    seconds = pace * (bar.total - bar.n) + epochs_after * (epoch_seconds or pace * bar.total)
    bar.set_postfix_str(f"run {tqdm.format_interval(seconds)} left", refresh=False)


def progress(description: str, *, total: int, unit: str, quiet: bool, initial: int = 0) -> tqdm:
    """Show a progress bar on standard error, with rate and time left; nothing with `quiet` or without a terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=True if quiet else None,
    )
