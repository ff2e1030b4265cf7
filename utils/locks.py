"""Locks of folders: one process works, others wait or are refused. A lock ends with the process that took it."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from utils.errors import UserError

log = logging.getLogger("dgcmm")

LOCK_NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system says that has none, such as some NFS


def take_lock(path: Path, timeout: float = 0) -> BaseFileLock:
    """Take the lock of a file, which is created if need be, within so many seconds (-1: however long it takes).

    Where the file system has no locks, work goes on without one, with a warning.

    Raises:
        Timeout: another process has it.
        OSError: the file cannot be written.
    """
    # filelock's way out, a soft lock, would be left by a process that is killed on another machine
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        text = "%s: its file system has no locks (%s): see to it that no other command writes there"
        log.warning(text, path.parent, error.strerror)
    return lock


@contextlib.contextmanager
def folder_lock(folder: Path, purpose: str, why: str = "") -> Iterator[None]:
    """Hold the lock of a folder, which is created if need be; wait, with a line in the log, while another has it.

    Args:
        folder: what is to be prepared by one process at a time.
        purpose: what the others are waiting for, for the line in the log.
        why: it has to be written, for the error.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = take_lock(path)
        except Timeout:
            log.warning("waiting for another process that has the lock of %s: %s", folder, purpose)
            lock = take_lock(path, timeout=-1)
    except OSError as error:
        what = error.filename or folder  # the lock may be another user's
        text = f"{what} cannot be written ({error.strerror}): make it so, or name another folder"
        raise UserError(f"{why}, and {text}" if why else text) from error
    try:
        yield
    finally:
        lock.release()
