"""Standard streams that may be closed, or that nobody reads: no reason to end a run, nor to spoil a file."""

import contextlib
import io
import json
import logging
import os
import select
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

log = logging.getLogger("dgcmm")


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Print inside the block without regard to who reads."""
    _stand_in_for_closed()
    escape_unprintable()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_drop(stream)


def escape_unprintable() -> None:
    """Have a terminal that is not set to UTF-8 show what it lacks as a number; standard error does so by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def is_read(stream: TextIO) -> bool:
    """Tell whether somebody may still read what is printed: the other end of a pipe or socket is open, if it is one."""
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # a stand-in without a file, or closed
        return True
    poll = select.poll()
    poll.register(number, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def print_result(result: Mapping[str, object]) -> None:
    """Print the last line of a script on standard output: one JSON object, null for what is undefined."""
    text = json.dumps(result, allow_nan=False)
    try:
        print(text, flush=True)
    except OSError as error:
        log.warning("standard output takes no more (%s); the files of the result are written", error.strerror)


def say(text: object) -> None:
    """Print a line on standard error, for whom it may reach."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _stand_in_for_closed() -> None:
    """Open the null device for standard streams that are closed.

    Else the next file that is opened gets the number of one of them, and with it what torch or another process prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush_or_drop(stream: TextIO) -> None:
    """Flush what was printed; drop it where nobody reads, of which Python would complain at its end."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
