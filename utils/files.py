"""Files that a reader, or a crash, never meets half of; and reading tables of their kind."""

import contextlib
import csv
import errno
import glob
import io
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO, TypeVar

from utils.errors import UserError
from utils.stopping import Stopped

T = TypeVar("T")
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # what a disk says of such a path
TABLE_CHUNK = 1 << 20  # characters of a table in memory


class Sink(Protocol):
    """What a file is written through."""

    def write(self, content: bytes) -> int:
        """As in a binary file."""

    def flush(self) -> None:
        """As in a binary file."""


def write_atomically(path: Path, write: Callable[[Sink], object]) -> None:
    """Have `write` fill a file beside `path`, flush it to disk and rename it to `path`.

    What processes of this machine that were killed in the middle of this have left beside `path` is removed first.

    Raises:
        UserError: the disk is full or the folder cannot be written; `path` is what it was.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[Sink], object]]) -> None:
    """As `write_atomically`, of several files: none is renamed before all are filled, in the order of `writes`."""
    asides = {path: _aside(path) for path in writes}
    try:
        for path, write in writes.items():
            _fill(path, asides[path], write)
        for path, aside in asides.items():
            with writing(path):
                os.replace(aside, path)
            _flush_names(path.parent)
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink()


def _fill(path: Path, aside: Path, write: Callable[[Sink], object]) -> None:
    """Have `write` fill the file `aside`, which will be `path`, and flush it to disk."""
    noted: list[OSError] = []
    try:
        with writing(path):
            _remove_rests(path)
            with aside.open("wb") as file:
                write(_Noting(file, noted))
                file.flush()
                os.fsync(file.fileno())
    except RuntimeError as error:  # what torch.save makes of a full disk
        if isinstance(error.__context__, Stopped):  # within torch.save, which ends its file all the same, and fails
            raise error.__context__ from None
        if not noted:
            raise
        raise unwritable(path, noted[0]) from error


class _Noting:
    """A file that notes what the disk said, for callers that do not pass it on."""

    def __init__(self, file: BinaryIO, noted: list[OSError]) -> None:
        self._file, self._noted = file, noted

    def write(self, content: bytes) -> int:
        """As in the file."""
        return self._noting(self._file.write, content)

    def flush(self) -> None:
        """As in the file."""
        self._noting(self._file.flush)

    def _noting(self, call: Callable[..., T], *arguments: bytes) -> T:
        try:
            return call(*arguments)
        except OSError as error:
            self._noted.append(error)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what the disk refuses within the block as a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> UserError:
    """Say that the disk does not take a file, and why."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk is full: {path} cannot be written; free some space and continue (a training by --resume=auto, "
            f"not --overwrite): what is complete is kept ({reason})"
        )
    return UserError(f"{path} cannot be written ({reason}): choose another folder, or free some space")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogateescape")))  # may name files


def write_table(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a CSV file in one piece, of what `write_rows` takes.

    Raises:
        UserError: as `write_atomically`; what else taking a row raises passes through, and `path` is what it was.
    """
    write_atomically(path, lambda file: write_rows(file, header, rows))


def write_rows(file: Sink, header: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a CSV file; None and a column that a row lacks are empty cells.

    The rows are taken one by one, as all of them may not fit into memory.
    """

    def encoded(buffer: io.StringIO) -> bytes:
        return buffer.getvalue().encode(errors="surrogateescape")  # a file's name need not be UTF-8

    buffer = io.StringIO()
    plain = csv.DictWriter(buffer, header, lineterminator="\n")
    quoted = csv.DictWriter(buffer, header, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writer_of(cells: Iterable[object]) -> csv.DictWriter:
        """A carriage return, as the name of a file or class may have, is quoted by itself from Python 3.13 on only."""
        return quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain

    writer_of(header).writeheader()
    for row in rows:
        writer_of(row.values()).writerow(row)
        if buffer.tell() > TABLE_CHUNK:
            file.write(encoded(buffer))
            buffer.seek(0)
            buffer.truncate()
    file.write(encoded(buffer))


def open_table(path: Path) -> TextIO:
    """Open a CSV file as `write_table` writes it, whatever the locale; a spreadsheet may have added a mark."""
    return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as `write_table` writes it: name of the column -> text of the cell."""
    with open_table(path) as file:
        return list(csv.DictReader(file))


def keep_as(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name; at no instant is one of the two missing.

    Raises:
        UserError: the disk is full or the folder cannot be written; both files are what they were.
    """
    aside = _aside(previous)
    try:
        with writing(previous):
            _remove_rests(previous)
            aside.unlink(missing_ok=True)
            try:
                os.link(path, aside)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, aside)
            os.replace(aside, previous)
    finally:  # it is still there after an error, or where both names were those of one file
        with contextlib.suppress(OSError):
            aside.unlink()


def move(source: Path, target: Path) -> None:
    """Rename a file to `target`; on another disk, where that cannot be, it is copied, and `target` is whole too.

    Raises:
        OSError: it cannot be renamed; `source` is still there.
        UserError: it cannot be copied, as in `write_atomically`; `source` is still there.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as content:
            write_atomically(target, lambda file: shutil.copyfileobj(content, file))
        source.unlink()


def _aside(path: Path) -> Path:
    """Name the file in which this process prepares what will be `path`."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def _remove_rests(path: Path) -> None:
    """Remove what processes of this machine that are gone have left of `path`."""
    start = f".{path.name}.{socket.gethostname()}-"
    for rest in path.parent.glob(f"{glob.escape(start)}*.part"):
        number = rest.name.removeprefix(start).removesuffix(".part")
        if number.isdecimal() and not _runs(int(number)):
            rest.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _flush_names(folder: Path) -> None:
    """Have the names in a folder on disk too, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
