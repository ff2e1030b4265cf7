"""A lock on a folder that several processes may prepare: one works, the others wait and say so."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError

log = logging.getLogger("dgcmm")

LOCK_NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if need be; wait, with a line in the log, while another has it.

    A POSIX record lock: it ends with the process that took it, whatever that process has forked.

    Args:
        folder: what is to be prepared by one process at a time.
        purpose: what the others are waiting for, for the line in the log.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.warning("waiting for another process that has the lock of %s: %s", folder, purpose)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
