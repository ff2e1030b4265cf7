"""A full disk, for a process of its own: pytest's may be writing its report to a file meanwhile."""

import contextlib
import io
import multiprocessing
import resource
from collections.abc import Callable
from typing import NamedTuple


class End(NamedTuple):
    """How a call ended: what it raised, if anything, and what it printed to standard error."""

    error: Exception | None
    err: str


def limit_files(size: int) -> None:
    """Let no file that this process writes grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def with_small_files(size: int, call: Callable[[], object]) -> End:
    """Make a call in a copy of this process, under `limit_files`.

    torch must not compute in it: its threads are not copied.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        limit_files(size)
        error = None
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                call()
            except Exception as raised:
                error = raised
        sender.send(End(error, err.getvalue()))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
