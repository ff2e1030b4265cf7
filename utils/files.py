"""Writing files so that a reader, or a crash, never meets half of one."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file beside `path`, flush it to disk and rename it to `path`.

    Raises:
        UserError: the disk is full or the folder cannot be written; `path` is what it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        raise UserError(f"{path} cannot be written ({error}): free some space, or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    write_atomically(path, lambda file: file.write(text.encode()))


def keep_as(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name; at no instant is one of the two missing."""
    aside = previous.with_name(f".{previous.name}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)
    os.link(path, aside)
    os.replace(aside, previous)
