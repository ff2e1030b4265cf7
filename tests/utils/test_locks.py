"""The lock of a folder: one works, the others wait and say so, and no lock outlives its process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.project import ROOT
from utils import locks
from utils.errors import UserError
from utils.locks import folder_lock
from utils.training.folder import RunFolder

HOLD = (
    "import sys; from pathlib import Path; from utils.locks import folder_lock\n"
    "with folder_lock(Path(sys.argv[1]), 'holds'): print('locked', flush=True); input()\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that has the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_folder_is_created_and_the_lock_can_be_taken_again(tmp_path, caplog):
    for _ in range(2):
        with folder_lock(tmp_path / "new" / "data", "it works"):
            assert (tmp_path / "new" / "data").is_dir()
    assert not caplog.messages


@pytest.mark.parametrize("end", ["released", "killed"])
def test_another_process_waits_says_so_and_gets_the_lock(end, holder, tmp_path, monkeypatch):
    said: list[str] = []

    def note_and_end_it(text: str, *words: object) -> None:
        said.append(text % words)
        holder.communicate(b"\n") if end == "released" else holder.send_signal(signal.SIGKILL)

    monkeypatch.setattr("utils.locks.log.warning", note_and_end_it)
    with folder_lock(tmp_path, "it brings files"):
        pass
    assert said == [f"waiting for another process that has the lock of {tmp_path}: it brings files"]


def test_fault_inside_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path, "it fails"):
        raise ZeroDivisionError
    with folder_lock(tmp_path, "it works"):
        pass


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    named = pytest.raises(UserError, match="file/data cannot be written .*: make it so, or name another folder")
    with named, folder_lock(tmp_path / "file" / "data", "it works"):
        pass


def test_why_a_folder_has_to_be_written_is_said_first(tmp_path):
    (tmp_path / "file").touch()
    named = pytest.raises(UserError, match="^it lacks a file, and .*/file/data cannot be written")
    with named, folder_lock(tmp_path / "file" / "data", "it works", "it lacks a file"):
        pass


def test_lock_of_another_user_is_named_and_not_the_folder(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

    monkeypatch.setattr(locks, "take_lock", refuse)
    named = pytest.raises(UserError, match=r"/\.lock cannot be written \(Permission denied\): make it so, or name")
    with named, folder_lock(tmp_path, "it works"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_said_and_worked_on(number, tmp_path, monkeypatch, caplog):
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_lock(tmp_path, "it works"):
        pass
    RunFolder(str(tmp_path)).open().close()
    said = f"{tmp_path}: its file system has no locks ({os.strerror(number)}): see to it that"
    assert [message.startswith(said) for message in caplog.messages] == [True, True]
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "log.txt"}
