"""What the ends of a run's processes amount to."""

import multiprocessing
import os
import signal
import sys
import time
import types

import pytest
import torch

from utils import stopping
from utils.distributed import spawn as processes
from utils.distributed.plan import Launch
from utils.distributed.spawn import Report
from utils.distributed.world import Member
from utils.errors import LostRank, UserError
from utils.stopping import Stopped

TWO = Launch(size=4, first_rank=2, local_size=2, spawns=True)


def test_signal_that_reaches_the_launcher_alone_is_handed_on(monkeypatch):
    monkeypatch.setattr(stopping, "received", lambda: signal.SIGTERM)
    ranks = [multiprocessing.get_context("fork").Process(target=signal.pause) for _ in range(2)]
    for rank in ranks:
        rank.start()
    try:
        processes._wait(ranks)
        for rank in ranks:
            rank.join(60)
        assert [rank.exitcode for rank in ranks] == [-signal.SIGTERM] * 2
    finally:
        for rank in ranks:
            rank.kill()


def judge(codes, said=(), killed=(), received=0, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(stopping, "received", lambda: received)
    processes._judge(TWO, [types.SimpleNamespace(exitcode=code) for code in codes], set(killed), said)


def test_good_ends(capsys):
    judge([0, 0])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("codes", "received"),
    [
        ([143, 143], 0),  # one was signalled by somebody, and told the others
        ([143, 0], signal.SIGTERM),
        ([143, -signal.SIGTERM], signal.SIGTERM),  # the second could not handle it yet
        ([-signal.SIGTERM, -signal.SIGTERM], signal.SIGTERM),
    ],
)
def test_stopped_in_good_order(codes, received, monkeypatch):
    with pytest.raises(Stopped) as end:
        judge(codes, received=received, monkeypatch=monkeypatch)
    assert end.value.signum == signal.SIGTERM


@pytest.mark.parametrize(
    ("codes", "received", "word"),
    [
        ([0, -signal.SIGKILL], 0, "rank 3 was killed by SIGKILL"),
        ([-signal.SIGTERM, 0], 0, "rank 2 was killed by SIGTERM"),
        ([143, -signal.SIGKILL], signal.SIGTERM, "rank 3 was killed by SIGKILL"),
        ([0, 7], 0, "rank 3 ended with status 7 without a word"),
    ],
)
def test_lost_rank_is_named(codes, received, word, monkeypatch):
    with pytest.raises(LostRank, match=word):
        judge(codes, received=received, monkeypatch=monkeypatch)


def test_cause_counts_before_what_others_saw_of_it():
    said = [Report(2, "lost", "lost rank 3", 1.0), Report(3, "user", "the image is damaged", 2.0)]
    with pytest.raises(UserError, match="the image is damaged"):
        judge([1, 2], said)


def test_process_that_leaves_the_word_to_the_first_node_points_there():
    with pytest.raises(UserError, match="an error in another process ended the run: see the output of node 0"):
        judge([2, 2])


def test_process_that_saves_after_a_signal_has_longer_than_one_that_is_left_by_a_failure(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    killed = {}
    for signum in (0, signal.SIGTERM):
        monkeypatch.setattr(stopping, "received", lambda signum=signum: signum)
        saving = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.8,))
        saving.start()
        killed[signum] = processes._end([saving])
    assert killed == {0: {0}, signal.SIGTERM: set()}


def test_second_signal_does_not_end_a_process_that_another_launcher_looks_after(monkeypatch):
    def rank(*_):
        with stopping.held():
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
        return 0, None, ""

    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"ended at once, with {status}"))
    monkeypatch.setattr(processes, "run_rank", rank)
    processes.run_member(Launch(2, url="env://"), None, print)
    with pytest.raises(pytest.fail.Exception), stopping.handled():  # which is how a command by itself ends
        rank()


def test_signal_that_comes_while_an_error_is_told_changes_nothing(monkeypatch):
    def fail(_):
        raise UserError("the image is damaged")

    world = types.SimpleNamespace(post_failure=lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(Member, "join", lambda *_: world)
    monkeypatch.setattr(processes, "share_cores", lambda *_: None)
    with stopping.handled():
        assert processes.run_rank(TWO, 0, None, None, fail) == (2, "user", "the image is damaged")


@pytest.fixture
def ends(monkeypatch):
    """The statuses with which a process of `spawn` would end: its work was stopped by Ctrl-C."""
    statuses = []
    monkeypatch.setattr(torch.multiprocessing, "_prctl_pr_set_pdeathsig", lambda _: None)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(is_alive=lambda: True))
    monkeypatch.setattr(processes, "run_rank", lambda *_: (130, "stopped", "saved after epoch 3"))
    monkeypatch.setattr(processes, "_end_now", statuses.append)
    return statuses


def test_ctrl_c_that_reaches_a_process_twice_ends_it_as_one_does(ends):
    """From the terminal and from the process that started it, at any moment until it has ended."""

    class Pipe:
        def send(self, report):
            signal.raise_signal(signal.SIGINT)
            said.append(report)

    said = []
    processes._rank_main(1, TWO, [None, None], None, [None, Pipe()], [], print, ())
    assert ends == [130]
    assert [(report.rank, report.kind, report.text) for report in said] == [(3, "stopped", "saved after epoch 3")]


def test_process_whose_parent_went_before_it_could_ask_to_be_told_ends(ends, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(is_alive=lambda: False))
    monkeypatch.setattr(processes, "_end_now", sys.exit)
    with pytest.raises(SystemExit, match="1"):
        processes._rank_main(0, TWO, [None, None], None, [], [], print, ())
