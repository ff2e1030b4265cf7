"""Files appear whole or not at all, on a full disk and without hard links too, and nothing is left beside them."""

import errno
import os
import socket

import pytest
import torch

from helpers.limits import separate_disks, with_small_files
from utils import files
from utils.errors import UserError
from utils.files import keep_as, move, read_rows, write_atomically, write_table, write_text
from utils.stopping import Stopped


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(bytes(200_000)),
        lambda file: torch.save({"weight": torch.empty(50_000)}, file),  # which says nothing of the disk
    ],
)
def test_full_disk_leaves_the_file_as_it_was(write, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_text("good")
    end = with_small_files(100_000, lambda: write_atomically(path, write))
    with pytest.raises(UserError, match=r"checkpoint.pth cannot be written \(File too large"):
        raise end.error
    assert path.read_text() == "good"
    assert os.listdir(tmp_path) == ["checkpoint.pth"]


def test_other_faults_keep_their_traceback(tmp_path):
    def fault(file):
        raise RuntimeError("not of the disk")

    with pytest.raises(RuntimeError, match="not of the disk"):
        write_atomically(tmp_path / "a", fault)
    assert os.listdir(tmp_path) == []


def test_signal_that_torch_save_makes_a_fault_of_is_still_a_signal(tmp_path):
    def write(file):
        try:
            raise Stopped(15)
        finally:
            raise RuntimeError("unexpected pos")  # as torch's archive does, which ends its file all the same

    with pytest.raises(Stopped):
        write_atomically(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())


def keep(path):
    """Give the content to `path` as `keep_as` does, from a file that lies elsewhere."""
    other = path.parent / "other"
    other.mkdir()
    (other / "new.txt").write_text("content")
    keep_as(other / "new.txt", path)


@pytest.mark.parametrize("bring", [lambda path: write_text(path, "content"), keep], ids=["written", "kept"])
def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(bring, tmp_path):
    host, gone = socket.gethostname(), 2**22 + 1  # beyond the largest number of a process
    rests = {
        f".a.txt.{host}-{gone}.part": False,
        f".a.txt.{host}-{os.getppid()}.part": True,
        f".a.txt.elsewhere-{gone}.part": True,
        f".b.txt.{host}-{gone}.part": True,
    }
    for name in rests:
        (tmp_path / name).touch()
    bring(tmp_path / "a.txt")
    assert {name: (tmp_path / name).exists() for name in rests} == rests
    assert (tmp_path / "a.txt").read_text() == "content"


def test_file_that_another_users_process_writes_stays(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "kill", refused)
    rest = tmp_path / f".a.txt.{socket.gethostname()}-{os.getppid()}.part"
    rest.touch()
    write_text(tmp_path / "a.txt", "content")
    assert rest.exists()


@pytest.mark.parametrize("links", [True, False])
def test_previous_is_kept_with_and_without_hard_links(links, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(files.os, "link", refused)
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_text("new")
    previous.write_text("old")
    for _ in range(2):  # the second time both may be names of one file
        keep_as(path, previous)
    assert (path.read_text(), previous.read_text()) == ("new", "new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_previous_that_cannot_be_kept_is_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_bytes(bytes(5000))
    previous.write_text("old")
    end = with_small_files(1000, lambda: keep_as(path, previous))
    with pytest.raises(UserError, match="b cannot be written"):
        raise end.error
    assert previous.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_cells_are_read_as_they_were_written(tmp_path):
    rows = [{"file": name, "a": number} for number, name in enumerate(["a\rb.png", "c\nd", 'e"f', "g,h", "i"])]
    write_table(tmp_path / "table.csv", ["file", "a"], rows)
    assert read_rows(tmp_path / "table.csv") == [{"file": row["file"], "a": str(row["a"])} for row in rows]


def test_table_that_a_spreadsheet_has_saved_is_read(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbfepoch,acsa\r\n1,0.5\r\n")
    assert read_rows(tmp_path / "table.csv") == [{"epoch": "1", "acsa": "0.5"}]


def test_columns_are_read_as_they_were_written(tmp_path):
    row = {"p_cat\r": "1", "p_dog\n": "2", 'p_"c,d"': "3"}
    write_table(tmp_path / "table.csv", list(row), [row])
    assert read_rows(tmp_path / "table.csv") == [row]


def test_move_to_another_disk(tmp_path, monkeypatch):
    separate_disks(monkeypatch)
    (tmp_path / "here").write_text("text")
    (tmp_path / "there").mkdir()
    move(tmp_path / "here", tmp_path / "there/a")
    assert [(path.name, path.read_text()) for path in (tmp_path / "there").iterdir()] == [("a", "text")]
    assert not (tmp_path / "here").exists()


def test_text_may_have_a_name_that_is_not_utf8(tmp_path):
    write_text(tmp_path / "list.txt", "caf\udce9.png\n")
    assert (tmp_path / "list.txt").read_bytes() == b"caf\xe9.png\n"


def test_table_is_written_row_by_row_and_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    name = b"caf\xe9.png".decode(errors="surrogateescape")  # a file whose name is not UTF-8

    def rows(count):
        for number in range(3):
            if number == count:
                raise ZeroDivisionError
            yield {"file": name, "a": number} if number else {"a": None}

    write_table(path, ["file", "a"], rows(3))
    assert path.read_bytes() == b"file,a\n,\ncaf\xe9.png,1\ncaf\xe9.png,2\n"
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_table(path, ["file", "a"], rows(2))
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("table.csv", before)]


def test_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    done, replace, flush = [], os.replace, os.fsync

    def noted(number: int) -> None:
        done.append("name" if os.path.isdir(f"/proc/self/fd/{number}") else "content")
        flush(number)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("renamed") or replace(*paths))
    write_text(tmp_path / "a.txt", "content")
    assert done == ["content", "renamed", "name"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_quota_that_is_used_up_is_a_full_disk(number, tmp_path):
    said = str(files.unwritable(tmp_path / "a", OSError(number, os.strerror(number))))
    assert said.startswith("the disk is full: ")


def test_second_name_that_a_process_of_this_number_has_left_is_no_hindrance(tmp_path):
    """As in a container, where numbers come again."""
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_text("new")
    os.link(path, tmp_path / f".b.{socket.gethostname()}-{os.getpid()}.part")
    keep_as(path, previous)
    assert previous.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
