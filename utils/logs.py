"""What a run says: log lines on standard output and in log.txt, warnings and progress bars on standard error."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from utils import streams
from utils.files import unwritable

log = logging.getLogger("dgcmm")


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


def start_logging(quiet: bool, rank: int = 0) -> None:
    """Send the log to the console: warnings only if `quiet`, or if this is not the main process."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a process that ends at once leaves
    streams.escape_unprintable()
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    console = _Console(rank)
    console.setLevel(logging.WARNING if quiet or rank else logging.INFO)
    log.addHandler(console)
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
    """Whose full disk is the user's to mend, not a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise unwritable(Path(self.baseFilename), error) from error
        super().handleError(record)


def log_to_file(path: Path) -> logging.Handler:
    """Append the log to a file too, with date and time; returns the handler, for its end.

    Raises:
        UserError: the file cannot be written, now or with any later line.
    """
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return handler


def end_log_file(handler: logging.Handler) -> None:
    """End what `log_to_file` began."""
    log.removeHandler(handler)
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
