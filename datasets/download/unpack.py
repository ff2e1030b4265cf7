"""Unpacking of one archive of flat files that nobody vouches for: all of it or nothing, and nothing outside."""

import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from datasets.download.parallel import Cancel
from utils.errors import UserError
from utils.files import unwritable

CHUNK = 1 << 20
EXTENSIONS = (".tar.gz", ".tgz", ".zip")
LEFT_BY_MACOS = {"__MACOSX", ".DS_Store"}
# what the readers of damaged gzip, tar and zip files raise, beside OSError; the last three for wrong text, for kinds
# of zip that are not supported, and for wrong offsets
DAMAGE = (
    EOFError,
    IndexError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    ValueError,
    RuntimeError,
    OverflowError,
)


class _Hostile(Exception):
    """The archive holds what no archive of images needs."""


def unpack(
    archive: Path, folder: Path, expected: re.Pattern[str], cancel: Cancel, report: Callable[[int], None]
) -> list[str]:
    """Unpack a .tar.gz or .zip archive into a new folder, flat: the folders inside the archive are left out.

    So is what macOS adds to an archive of its own: `__MACOSX/images/._NAME.png` for an image.

    Args:
        archive: path of the archive; its extension says its kind.
        folder: is created; it is gone again if anything is wrong.
        expected: what the name of every file, without its folder, must match in full.
        cancel: ends it.
        report: called with the number of bytes of the archive that were read.

    Returns:
        The names of the files.

    Raises:
        UserError: the archive is damaged or hostile (paths that leave the folder, anything but files and folders,
            names that are not expected or occur twice), or the disk is full.
        Cancelled: it was ended.
    """
    complete = False
    try:
        folder.mkdir()
        names = _unpack(archive, folder, expected, _Watched(archive, cancel, report))
        complete = True
        return names
    except _Hostile as error:
        raise UserError(f"{archive} {error}: nothing of it was kept; delete it, and name another source") from error
    except DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # gzip's own
            raise _damaged(archive, error) from error
        raise unwritable(folder, error) from error
    finally:
        if not complete:
            shutil.rmtree(folder, ignore_errors=True)


def _damaged(archive: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{archive} is damaged ({reason}): delete it, and it is fetched again")


class _Watched(io.FileIO):
    """A file whose reading can be cancelled and is reported."""

    def __init__(self, path: Path, cancel: Cancel, report: Callable[[int], None]) -> None:
        super().__init__(path)
        self._cancel, self._report = cancel, report

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As in FileIO."""
        self._cancel.check()
        count = super().readinto(buffer)
        self._report(count)
        return count


def _unpack(archive: Path, folder: Path, expected: re.Pattern[str], raw: _Watched) -> list[str]:
    names: dict[str, None] = {}  # in order
    with io.BufferedReader(raw, CHUNK) as packed:
        for path, size, content in _zip_files(packed) if archive.suffix == ".zip" else _tar_files(packed):
            name = _safe_name(path)
            if name.startswith("._") or LEFT_BY_MACOS.intersection(PurePosixPath(path).parts):
                continue
            if not expected.fullmatch(name):
                raise _Hostile(f"holds {path!r}, which is not expected")
            if name in names:
                raise _Hostile(f"holds {name} twice")
            names[name] = None
            with (folder / name).open("xb") as file:
                shutil.copyfileobj(content, file, CHUNK)
                if file.tell() != size:
                    raise EOFError(f"{name} ends early")
    if not names:
        raise EOFError("it holds no file")
    return list(names)


def _tar_files(packed: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Give (path, size, content) of each file; refuse all else but folders."""
    with gzip.GzipFile(fileobj=packed) as plain, tarfile.open(fileobj=plain, mode="r|", bufsize=CHUNK) as tar:
        for member in tar:
            if member.isdir():
                _safe_name(member.name)
            elif not member.isreg() or member.type == tarfile.GNUTYPE_SPARSE or member.issparse():
                raise _Hostile(f"holds {member.name!r}, which is neither a file nor a folder")
            else:
                yield member.name, member.size, tar.extractfile(member)
        while rest := tar.fileobj.read(CHUNK):  # tarfile takes a damaged header for the end, and gzip verifies there
            if any(rest):
                raise EOFError("it goes on after its end")


def _zip_files(packed: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Give (path, size, content) of each file; refuse all else but folders."""
    with zipfile.ZipFile(packed) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive says nothing of it
            if info.is_dir():
                _safe_name(info.filename)
            elif kind not in (0, stat.S_IFREG):
                raise _Hostile(f"holds {info.filename!r}, which is neither a file nor a folder")
            else:
                with archive.open(info) as content:
                    yield info.filename, info.file_size, content


def _safe_name(path: str) -> str:
    """Give the last part of a path inside an archive, if the path stays inside."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise _Hostile(f"holds {path!r}, which would leave its folder")
    return parts[-1] if parts else ""
