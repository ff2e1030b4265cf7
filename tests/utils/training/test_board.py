"""TensorBoard's file is whole after each epoch, and a full disk is one line."""

import contextlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.limits import with_small_files
from helpers.runs import make_older
from utils.errors import UserError
from utils.training.board import Board


def test_every_epoch_is_on_disk_at_its_end(tmp_path):
    board = Board(tmp_path, ".train", 0)
    board.scalars(1, {"epoch": 1, "split": "test", "acc": 0.5, "auc": None, "loss": 2.0, "time": 1.0})
    board.flush()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(found.Tags()["scalars"]) == ["test/acc", "train/loss", "train/time"]
    assert found.Scalars("test/acc")[0].value == 0.5
    board.close()


@pytest.mark.parametrize(("epochs_done", "left"), [(1, [1]), (0, []), (None, [1, 2, 3])])
def test_resumed_run_hides_what_was_written_after_its_epochs(epochs_done, left, tmp_path):
    for done, epochs in ((0, (1, 2, 3)), (epochs_done, ())):
        board = Board(tmp_path, ".train", done)
        for epoch in epochs:
            board.scalars(epoch, {"epoch": epoch, "split": "test", "acc": 0.5})
        board.close()
        make_older(tmp_path)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [scalar.step for scalar in found.Scalars("test/acc")] == left


def test_full_disk_is_named_without_a_traceback(tmp_path):
    def write():
        board = Board(tmp_path, ".train", 0)
        board.scalars(1, {"epoch": 1, "split": "test", "acc": 0.5})
        board.flush()

    end = with_small_files(10, write)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written"):
        raise end.error
    assert "Traceback" not in end.err


def test_long_codes_are_shown_by_their_principal_components(tmp_path):
    with contextlib.closing(Board(tmp_path, "_aug", 0)) as board:
        board.codes(np.random.default_rng(0).normal(size=(70, 65)), [("a", 1)] * 70)
    (table,) = tmp_path.rglob("tensors.tsv")
    assert [line.count("\t") for line in table.read_text().splitlines()] == [63] * 70
