"""What the user can mend is one line and status 2; what we must mend keeps its traceback."""

import os
import signal

import pytest

from utils import stopping
from utils.errors import LostRank, LostWorker, UserError, run_script


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such file: a\n  b"), 2, "error: no such file: a b\n"),
        (LostRank("rank 1 is gone"), 1, "error: rank 1 is gone\n"),
        (LostWorker("one was killed"), 1, "error: one was killed\n"),
    ],
)
def test_one_line_and_a_status(error, status, line, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(raising(error))
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))


def test_success_is_status_0():
    with pytest.raises(SystemExit) as end:
        run_script(lambda: None)
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]
)
def test_a_signal_is_one_line_and_its_status_and_handlers_are_put_back(signum, status, capsys):
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: signal.raise_signal(signum))
    assert end.value.code == status
    assert capsys.readouterr().err == f"stopped by {signal.Signals(signum).name}\n"
    assert signal.getsignal(signum) is before


def test_a_signal_is_forgotten_with_its_script():
    with pytest.raises(SystemExit):
        run_script(lambda: signal.raise_signal(signal.SIGINT))
    assert stopping.received() == 0


def test_a_hangup_that_is_ignored_at_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with pytest.raises(SystemExit) as end:
            run_script(lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert end.value.code == 0


def test_only_a_second_sigterm_or_ctrl_c_ends_at_once(monkeypatch):
    """A terminal that is closed sends SIGHUP twice; a scheduler's SIGTERM may follow on its SIGUSR1."""

    def ended(status: int) -> None:
        raise ZeroDivisionError(status)

    monkeypatch.setattr(os, "_exit", ended)
    with stopping.handled(), stopping.held():
        for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(signum)
        assert stopping.received() == signal.SIGHUP
        with pytest.raises(ZeroDivisionError, match="130"):
            signal.raise_signal(signal.SIGINT)


def test_signal_that_came_too_late_for_a_block_does_not_keep_the_next_one_from_being_heard():
    with stopping.handled():
        with stopping.held():
            with stopping.held():
                signal.raise_signal(signal.SIGTERM)
            assert stopping.received() == signal.SIGTERM
        assert stopping.received() == 0
        with pytest.raises(stopping.Stopped, match="stopped by SIGTERM"):
            signal.raise_signal(signal.SIGTERM)


def test_signal_that_ended_a_block_is_the_last_that_counts():
    """The terminal's second SIGHUP must not disturb what the first one has set off."""

    @stopping.held()
    def hang_up() -> None:
        signal.raise_signal(signal.SIGHUP)
        raise ZeroDivisionError

    with stopping.handled():
        with pytest.raises(ZeroDivisionError):
            hang_up()
        signal.raise_signal(signal.SIGHUP)
        assert stopping.received() == signal.SIGHUP
