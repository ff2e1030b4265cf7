"""What a run says: log lines on standard output and in log.txt, warnings and progress bars on standard error."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

log = logging.getLogger("dgcmm")


class _Console(logging.Handler):
    """Information to standard output, warnings to standard error, around the progress bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        loud = record.levelno >= logging.WARNING
        prefix = "warning: " if loud else ""
        tqdm.write(prefix + record.getMessage(), file=sys.stderr if loud else sys.stdout)


def start_logging(quiet: bool) -> None:
    """Send the log to the console, warnings only if `quiet`."""
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    console = _Console()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    log.addHandler(console)
    log.setLevel(logging.INFO)
    log.propagate = False


def log_to_file(path: Path) -> logging.Handler:
    """Append the log to a file too, with date and time; returns the handler, for its end."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return handler


def end_log_file(handler: logging.Handler) -> None:
    """End what `log_to_file` began."""
    log.removeHandler(handler)
    handler.close()


def progress(iterable: Iterable | None, description: str, *, total: int, unit: str, quiet: bool) -> tqdm:
    """A progress bar with rate and time left on standard error; silent with `quiet` or where that is no terminal."""
    return tqdm(
        iterable,
        desc=description,
        total=total,
        unit=unit,
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=True if quiet else None,
    )
