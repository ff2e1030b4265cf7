"""What a machine may refuse: a full disk, folders that are closed to others."""

import codecs
import contextlib
import errno
import io
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest


class End(NamedTuple):
    """How a call ended: what it raised, if anything, and what it printed to standard error."""

    error: Exception | None
    err: str


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions count, also for root."""
    codecs.lookup("utf-8-sig")  # loads it: Python may lie where others cannot, and remembers what it did not find
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def separate_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be renamed into another folder, as if each were a disk of its own."""
    replace = os.replace

    def within_a_folder(source: os.PathLike, target: os.PathLike) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", within_a_folder)


def refusing(function: Callable, name: str) -> Callable:
    """Make an `open` that refuses the files of a name."""

    def refused(place: object, *args: object, **kwargs: object) -> object:
        if os.path.basename(str(place)) == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return function(place, *args, **kwargs)

    return refused


def limit_files(size: int) -> None:
    """Let no file that this process writes grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def with_small_files(size: int, call: Callable[[], object]) -> End:
    """Make a call in a copy of this process, under `limit_files`: pytest may be writing its report to a file meanwhile.

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
