"""What the ends of a run's processes amount to."""

import json
import multiprocessing
import os
import signal
import time
import types

import pytest

from utils import stopping
from utils.distributed import spawn as processes
from utils.distributed.plan import Launch
from utils.errors import LostRank, UserError
from utils.stopping import Stopped

TWO = Launch(size=4, first_rank=2, local_size=2, spawns=True)


def judge(codes, folder, killed=(), received=0, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(stopping, "received", lambda: received)
    processes._judge(TWO, [types.SimpleNamespace(exitcode=code) for code in codes], set(killed), folder)


def report(folder, rank, kind, when, text):
    (folder / f"{rank}.json").write_text(json.dumps({"rank": rank, "kind": kind, "time": when, "text": text}))


def test_good_ends(tmp_path, capsys):
    judge([0, 0], tmp_path)
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
def test_stopped_in_good_order(codes, received, tmp_path, monkeypatch):
    with pytest.raises(Stopped) as end:
        judge(codes, tmp_path, received=received, monkeypatch=monkeypatch)
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
def test_lost_rank_is_named(codes, received, word, tmp_path, monkeypatch):
    with pytest.raises(LostRank, match=word):
        judge(codes, tmp_path, received=received, monkeypatch=monkeypatch)


def test_cause_counts_before_what_others_saw_of_it(tmp_path):
    report(tmp_path, 2, "lost", 1.0, "lost rank 3")
    report(tmp_path, 3, "user", 2.0, "the image is damaged")
    with pytest.raises(UserError, match="the image is damaged"):
        judge([1, 2], tmp_path)


def test_process_that_leaves_the_word_to_the_first_node_points_there(tmp_path):
    with pytest.raises(UserError, match="an error in another process ended the run: see the output of node 0"):
        judge([2, 2], tmp_path)


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
