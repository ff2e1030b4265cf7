"""A log that cannot be written is the user's to mend: one line, not a traceback for each."""

import io
import logging
import pickle
from pathlib import Path

import pytest
from tqdm import tqdm

from utils.errors import UserError
from utils.logs import (
    MOST_KEPT,
    end_log_file,
    log_to_file,
    said_so_far,
    share_warnings,
    show_left_of_run,
    start_logging,
)

log = logging.getLogger("dgcmm")


def test_lines_carry_time_and_level(tmp_path):
    log.setLevel("INFO")
    handler = log_to_file(tmp_path / "log.txt")
    log.info("hello")
    end_log_file(handler)
    log.info("not any more")
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith("INFO hello")


def test_file_has_once_what_was_said_before_it_was_opened(tmp_path, capsys):
    start_logging(quiet=True)
    log.info("%d images", 5)
    start_logging(quiet=True, said=said_so_far())  # of one of several processes
    log.warning("then")
    handler = log_to_file(tmp_path / "log.txt")
    log.info("open")
    end_log_file(handler)
    log.info("figures")
    end_log_file(log_to_file(tmp_path / "log.txt"))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO 5 images", "WARNING then", "INFO open", "INFO figures"]
    assert capsys.readouterr() == ("", "warning: then\n")


def test_another_run_in_the_same_process_has_its_own_lines_alone(tmp_path):
    start_logging(quiet=True)
    log.info("of a run that came to nothing")
    start_logging(quiet=True)
    end_log_file(log_to_file(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text() == ""


def test_warnings_that_only_other_processes_have_are_printed_once_with_their_rank(capsys):
    start_logging(quiet=True)
    log.warning("of all")
    share_warnings(lambda own: [own, ["of all", "of one"], ["of all"]], is_main=True)
    log.warning("later")
    assert capsys.readouterr().err.splitlines() == ["warning: of all", "warning: rank 1: of one", "warning: later"]


def test_other_process_prints_its_warnings_itself_once_they_have_been_shared(capsys):
    start_logging(quiet=True, rank=2)
    log.warning("of all")
    told = []
    share_warnings(lambda own: told.append(own) or [own, [], own], is_main=False)
    assert (told, capsys.readouterr().err) == ([["of all"]], "")
    log.warning("later")
    assert capsys.readouterr().err == "warning: rank 2: later\n"


def test_lines_that_wait_for_a_file_are_bounded_and_can_be_sent_to_a_process():
    start_logging(quiet=True)
    for number in range(MOST_KEPT + 7):
        log.info("line %d", number)
    said = pickle.loads(pickle.dumps(said_so_far()))
    assert [said[0].getMessage(), len(said)] == ["line 7", MOST_KEPT]


def test_full_disk_is_named(capfd):
    log.setLevel("INFO")
    handler = log_to_file(Path("/dev/full"))
    with pytest.raises(UserError, match="the disk is full: /dev/full cannot be written"):
        log.info("hello")
    end_log_file(handler)
    assert capfd.readouterr().err == ""


def test_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written"):
        log_to_file(tmp_path)


def test_console_that_nobody_reads_ends_nothing(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    start_logging(quiet=False)
    handler = log_to_file(tmp_path / "log.txt")
    log.info("hello")
    end_log_file(handler)
    assert "hello" in (tmp_path / "log.txt").read_text()


def test_each_line_is_in_the_file_when_it_is_said(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    with path.open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        start_logging(quiet=False)
        log.info("hello")
        assert path.read_text() == "hello\n"


def test_terminal_that_lacks_a_character_shows_its_number(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    start_logging(quiet=False)
    log.info("images per class: Größe 5")
    assert terminal.buffer.getvalue() == b"images per class: Gr\\xf6\\xdfe 5\n"


def left(done, epochs_after, epoch_seconds, seconds=10):
    """What the bar says of the run after so many seconds, of an epoch of 300 images that was resumed after 100."""
    bar = tqdm(total=300, initial=100, file=io.StringIO())
    bar._time = lambda: bar.start_t + seconds
    bar.n = done
    show_left_of_run(bar, epochs_after, epoch_seconds)
    return bar.postfix


def test_bar_says_what_is_left_of_the_run():
    assert left(200, 3, 3600) == "run 3:00:10 left"  # 100 images more, and three epochs of an hour
    assert left(200, 3, None) == "run 01:40 left"  # in the first epoch: 100 images in 10 s, so an epoch in 30 s
    assert left(300, 0, 3600) == "run 00:00 left"
    assert left(100, 3, None) is None  # nothing is known yet


def test_what_a_full_disk_did_not_take_is_for_the_next_file(tmp_path):
    start_logging(quiet=True)
    log.warning("before a file")
    with pytest.raises(UserError, match="the disk is full"):
        log_to_file(Path("/dev/full"))
    log.warning("after it")
    end_log_file(log_to_file(tmp_path / "log.txt"))
    assert [line.partition("WARNING ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "before a file",
        "after it",
    ]
