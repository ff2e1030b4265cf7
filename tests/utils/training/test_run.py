"""What a run refuses at its start, and how it ends."""

import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.runs import make_older, some_run
from utils import stopping
from utils.errors import UserError
from utils.stopping import Stopped
from utils.training.board import Board
from utils.training.checkpoint import ENTRIES, FORMAT, read_verified, save_checkpoint
from utils.training.folder import RunFolder
from utils.training.headline import finish
from utils.training.position import Position


def test_checkpoint_without_what_this_run_keeps_is_named():
    run = some_run()
    with pytest.raises(UserError, match=r"old.pth was written by another version .*lacks warmup_end, prior_started\)"):
        run.restore({}, Path("old.pth"))


def test_few_unequal_classes_do_not_make_a_first_epoch_diverge(caplog):
    """Guessing has 0.008 there, and a model at its start log 2."""
    run = some_run()
    run.warn_of_divergence(0.78, [1998, 2], first=0.0)
    run.warn_of_divergence(2.1, [10, 10, 10], first=0.0)
    run.warn_of_divergence(5.87, [10, 10, 10], first=5.9)  # it is no worse than it was
    assert not caplog.messages
    run.warn_of_divergence(1.1, [1998, 2], first=0.0)
    assert "epoch 1 diverged: its mean cross-entropy is 1.10, guessing by class shares has 0.01" in caplog.text


def test_end_of_a_run_without_an_epoch_is_one_line():
    with pytest.raises(UserError, match="no epoch has been trained: give more --epochs"):
        finish(some_run(), lambda split: None, None)


def test_epoch_is_saved_before_a_board_whose_disk_may_fail(tmp_path):
    run = some_run()
    run.folder, run.args.step_size = RunFolder(str(tmp_path)), 30

    def fail(*_):
        raise UserError("the disk is full")

    with run.open():
        run.board.scalars = fail
        with pytest.raises(UserError, match="the disk is full"):
            run.end_epoch(None, {"loss": 1.0})
    saved = read_verified(run.folder.checkpoint)
    assert (saved["epoch"], [row["epoch"] for row in saved["history"]]) == (1, [1])


MEASURED = SimpleNamespace(numbers={"acsa": 0.5})


@pytest.mark.parametrize(
    ("split", "act"),
    [
        ("test", lambda run: run.save()),
        ("val", lambda run: run.add_measurement(MEASURED)),  # which is the best
        ("test", lambda run: finish(run, lambda split: MEASURED, MEASURED)),
    ],
    ids=["save", "best", "finish"],
)
def test_run_writes_nothing_into_a_folder_that_another_process_has_made_again(split, act, tmp_path):
    run = some_run()
    run.folder, run.split, run.history = RunFolder(str(tmp_path / "run")).open(), split, [{"epoch": 1, "split": split}]
    shutil.rmtree(run.folder.path)
    with run.folder, RunFolder(str(tmp_path / "run")).open():
        with pytest.raises(UserError, match="was deleted and made again"):
            act(run)
        assert not list(run.folder.path.glob("*.pth")) + list(run.folder.path.glob("*.csv"))


@pytest.mark.parametrize(
    ("kind", "overwrite", "way_on"),
    [
        ("train", False, "--resume=auto"),
        ("aug", False, "the same command"),
        ("aug", True, "the same command without --overwrite"),
    ],
)
def test_run_that_is_stopped_says_what_continues_it(kind, overwrite, way_on, tmp_path):
    run = some_run()
    run.kind, run.folder, run.args.step_size, run.args.overwrite = kind, RunFolder(str(tmp_path)), 30, overwrite
    with pytest.raises(Stopped, match=f"; {way_on} continues$"), run.open():
        raise Stopped(signal.SIGTERM)


def test_hold_out_of_which_no_epoch_was_measured_has_no_best():
    run = some_run()
    run.split, run.about["data_sha256"], run.history = "val", {}, [{"split": "val"}]
    with pytest.raises(UserError, match="no epoch has been measured on the held-out images yet: give more --epochs"):
        finish(run, lambda split: None, None)


def test_best_epoch_of_other_images_is_refused(tmp_path):
    run = some_run()
    run.folder, run.split, run.best = RunFolder(str(tmp_path)), "val", {"epoch": 1, "acsa": 0.5}
    run.history = [{"split": "val"}]
    run.about["data_sha256"] = {"train": "a", "val": "b", "test": "c"}
    content = {"format": FORMAT, "epoch": 1, "state_dict": run.model.state_dict(), "best": run.best}
    content |= {"args": {}, "data_sha256": {"train": "a", "val": "other", "test": "c"}}
    save_checkpoint(run.folder.best, dict.fromkeys(ENTRIES) | content)
    with pytest.raises(UserError, match=r"model_best.pth holds epoch 1, .* it belongs to another run"):
        finish(run, lambda split: None, None)


def test_line_between_two_steps_has_the_mean_loss_of_the_images_so_far(caplog):
    caplog.set_level("INFO", "dgcmm")
    run = some_run()
    run.args.print_freq, losses = 1, iter([1.0, 5.0])
    for count in run.steps(iter([3, 1]), [3, 1]):
        run.step([run.model.weight.sum() * 0 + next(losses)], torch.arange(count))
    assert caplog.messages == ["epoch 1, step 1/2: loss 1.0000", "epoch 1, step 2/2: loss 2.0000"]


def test_more_processes_that_leave_out_the_last_batch_take_no_step_more():
    run = some_run()
    run.position = Position(11, 2563, (1.0,))
    assert list(run.steps(iter(()), [256] * 10)) == []


@pytest.mark.parametrize(("epoch", "best"), [(1, None), (2, {"epoch": 2, "acsa": 0.9}), (3, {"epoch": 2, "acsa": 0.9})])
def test_run_that_goes_back_keeps_the_epochs_until_there_and_the_best_if_it_is_one(epoch, best):
    run = some_run()
    run.epoch, run.position = 4, Position(5)
    run.history, run.best = [{"epoch": number} for number in (1, 2, 3, 4)], {"epoch": 2, "acsa": 0.9}
    run.go_back_to(epoch)
    assert (run.epoch, run.position, run.best) == (epoch, Position(), best)
    assert [row["epoch"] for row in run.history] == list(range(1, epoch + 1))


def test_board_of_a_run_shows_an_epoch_at_its_end_and_hides_those_after_where_it_goes_on(tmp_path, monkeypatch):
    """At its end what a thread has not written yet is waited for, or a process that is killed then would lose it."""
    run, flush, flushed = some_run(), Board.flush, []
    monkeypatch.setattr(Board, "flush", lambda self: flushed.append(run.epoch) or flush(self))
    run.folder, run.args.step_size = RunFolder(str(tmp_path)), 30
    with run.open():
        for epoch in (1, 2):
            run.end_epoch(None, {"loss": 0.5})
            found = EventAccumulator(str(run.folder.board)).Reload()
            assert [scalar.step for scalar in found.Scalars("train/loss")] == list(range(1, epoch + 1))
    assert flushed == [1, 2]
    make_older(run.folder.board)
    run.go_back_to(1)
    with run.open():
        pass
    found = EventAccumulator(str(run.folder.board)).Reload()
    assert [scalar.step for scalar in found.Scalars("train/loss")] == [1]


def test_signal_after_the_last_epoch_ends_a_run_that_is_saved(tmp_path):
    run = some_run()
    run.folder, run.args.step_size = RunFolder(str(tmp_path)), 30

    def train() -> None:
        with run.open():
            run.end_epoch(None, {"loss": 0.5})
            signal.raise_signal(signal.SIGTERM)

    with stopping.handled(), pytest.raises(Stopped, match=r"SIGTERM: saved after epoch 1/.*; --resume=auto continues"):
        train()
    assert read_verified(run.folder.checkpoint)["epoch"] == 1


def test_board_is_closed_after_an_error_too(tmp_path):
    """Its thread ends, and threads' errors are reported as before."""
    run, hook, threads = some_run(), threading.excepthook, set(threading.enumerate())
    run.folder = RunFolder(str(tmp_path))

    def fail():
        with run.open():
            assert set(threading.enumerate()) - threads
            raise ValueError("of a batch")

    with pytest.raises(ValueError, match="of a batch"):
        fail()
    assert threading.excepthook is hook
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fails_at_the_end_of_an_epoch_is_saved_by_a_process_that_is_alone(processes):
    """To save, all processes have to come: of several the others have not failed, or have ended."""
    run = some_run()
    run.world.size = processes
    assert list(run.steps(iter(()), [])) == []
    assert run._worth_saving is (processes == 1)
