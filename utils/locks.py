"""A lock on a folder that several processes may prepare: one works, the others wait and say so."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError

log = logging.getLogger("dgcmm")

LOCK_NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if need be; wait, with a line in the log, while another has it.

    The lock ends with the process that took it; what that process starts inside the block must not outlive it.

    Args:
        folder: what is to be prepared by one process at a time.
        purpose: what the others are waiting for, for the line in the log.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another process that has the lock of %s: %s", folder, purpose)
            lock.acquire()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    try:
        yield
    finally:
        lock.release()
