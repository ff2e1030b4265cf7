"""The run folder: names, lock, what is deleted, and tables without NaN."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from helpers.project import ROOT
from utils import files
from utils.errors import UserError
from utils.metrics import Measurement, Predictions
from utils.training import folder as folder_module
from utils.training.folder import RunFolder


@pytest.mark.parametrize(
    ("suffix", "names"),
    [
        ("", ["metrics.csv", "checkpoint.pth", "checkpoint_prev.pth", "model_best.pth"]),
        ("_aug", ["metrics_aug.csv", "checkpoint_aug.pth", "checkpoint_aug_prev.pth", "model_best_aug.pth"]),
    ],
)
def test_names_carry_the_suffix(tmp_path, suffix, names):
    folder = RunFolder(str(tmp_path), suffix)
    paths = [folder.file("metrics.csv"), folder.checkpoint, folder.previous, folder.best]
    assert [path.name for path in paths] == names


@pytest.mark.parametrize("suffix", ["", "_eval", "_aug"])
def test_table_of_predictions_is_a_runs_own_by_its_first_line(suffix, tmp_path):
    """Whether the run has ended or not: predict.py may have written one beside a checkpoint."""
    folder = RunFolder(str(tmp_path), suffix)
    folder.checkpoint.touch()
    table = folder.file("predictions.csv")
    table.write_text("file,prediction,a,b\n")
    with pytest.raises(UserError, match=f"^{table} is of no run, and would be replaced: move it"):
        folder.check_place(overwrite=False)
    folder.check_place(overwrite=True)
    folder.checkpoint.unlink()
    table.write_bytes(b"\xef\xbb\xbfid,target,prediction,a,b\r\n")  # as a spreadsheet saves it
    folder.check_place(overwrite=False)


def test_overwriting_deletes_the_scripts_own_files_alone(tmp_path):
    own = ["metrics_aug.csv", "checkpoint_aug.pth", "checkpoint_aug_prev.pth", "model_best_aug.pth", "log_aug.txt"]
    own += ["aug/events.out.tfevents.1.host.2.0_aug"]
    others = ["metrics.csv", "checkpoint.pth", "mine.txt", "events.out.tfevents.1.host.2.0.train"]
    (tmp_path / "aug").mkdir()
    for name in own + others:
        (tmp_path / name).touch()
    with RunFolder(str(tmp_path), "_aug").open(overwrite=True):
        assert not any((tmp_path / name).exists() for name in own if not name.startswith("log"))
        assert all((tmp_path / name).exists() for name in others)


def test_overwriting_a_training_deletes_what_was_made_from_it(tmp_path):
    results = ["checkpoint.pth", "checkpoint_prev.pth", "model_best.pth", "predictions_eval.csv"]
    results += ["metrics_aug.csv", "checkpoint_aug_ftl.pth", "checkpoint_aug_ftl_prev.pth", "model_best_aug.pth"]
    results += ["metrics_baselines.csv", "metrics_robustness.csv", "generative_half.json", "args_baselines.json"]
    results += ["checkpoint_codes.pth", "aug/projector_config.pbtxt", "aug_ftl/00000/codes/tensors.tsv"]
    for folder in ("aug", "aug_ftl/00000/codes"):
        (tmp_path / folder).mkdir(parents=True)
    others = ["mine.txt", "adjusted/checkpoint_aug.pth", "adjusted/metrics_aug.csv"]  # a re-training of its own folder
    (tmp_path / "adjusted").mkdir()
    for name in [*results, *others]:
        (tmp_path / name).touch()
    with RunFolder(str(tmp_path)).open(overwrite=True):
        assert not any((tmp_path / name).exists() for name in results)
        assert all((tmp_path / name).exists() for name in others)


def test_results_of_an_earlier_model_are_told_where_a_training_goes_on(tmp_path, caplog):
    for name in ("metrics.csv", "metrics_aug.csv", "metrics_eval.csv", "metrics_robustness.csv"):
        (tmp_path / name).write_text("x")
    with RunFolder(str(tmp_path), "_eval").open():
        pass
    assert not caplog.messages
    made = {"_aug": "re-training: metrics_robustness.csv", "": "training: Case 2, evaluated, metrics_robustness.csv"}
    for suffix, names in made.items():
        folder = RunFolder(str(tmp_path), suffix)
        for _ in range(2):  # for the training, and then for its figures
            with folder.open():
                pass
        (told,) = caplog.messages
        assert f" before this {names}; make them anew" in told
        caplog.clear()


def test_folder_that_another_process_has_changed_since_it_was_looked_at_is_not_opened(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.look()
    (tmp_path / "checkpoint.pth").touch()
    for _ in range(2):  # the lock is not kept
        with pytest.raises(UserError, match="another process has worked there meanwhile: repeat the command"):
            folder.open()
    folder.look()
    with folder.open():
        (tmp_path / "checkpoint.pth").write_text("its own")
    folder.open().close()


@pytest.mark.parametrize("suffix", ["_aug", "_aug_ftl", "_eval"])
def test_training_that_took_the_place_of_another_has_another_model(suffix, tmp_path):
    args = tmp_path / "args.json"
    args.write_text(json.dumps({"started": "once", "resumed": []}))
    for then, refused in (
        ({"started": "once", "resumed": [{"started": "later"}]}, False),
        ({"started": "later", "resumed": []}, True),
        (None, True),
    ):
        folder = RunFolder(str(tmp_path), suffix)
        folder.look()
        args.write_text(json.dumps(then)) if then else args.unlink()
        with pytest.raises(UserError, match="worked there meanwhile") if refused else contextlib.nullcontext():
            folder.open().close()


def test_folder_that_was_deleted_and_made_again_is_another_process_s(tmp_path):
    place = tmp_path / "run"
    with RunFolder(str(place)).open() as folder:
        folder.require_lock()
        shutil.rmtree(place)
        with pytest.raises(UserError, match="cannot be written"):
            folder.require_lock()
        with RunFolder(str(place)).open() as other:
            other.require_lock()
            with pytest.raises(UserError, match="was deleted and made again while this process was at work"):
                folder.require_lock()


def test_run_that_is_measured_is_neither_overwritten_nor_measured_by_another(tmp_path, lock_elsewhere):
    lock_elsewhere(tmp_path / ".lock_measuring")
    with pytest.raises(UserError, match="another process is at work there"):
        RunFolder(str(tmp_path)).open(overwrite=True)
    with pytest.raises(UserError, match="another process measures this run"), RunFolder(str(tmp_path)).measuring():
        pass
    RunFolder(str(tmp_path), "_aug").open(overwrite=True).close()


def test_folder_that_cannot_be_opened_is_not_locked(tmp_path, monkeypatch):
    def no_file(path):
        raise UserError("no log")

    refused = RunFolder(str(tmp_path))
    (tmp_path / "metrics.csv").mkdir()  # a file would be deleted
    with pytest.raises(UserError, match="cannot be written"):
        refused.open(overwrite=True)
    RunFolder(str(tmp_path)).open().close()
    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "log_to_file", no_file)
        with pytest.raises(UserError, match="no log"):
            refused.open()
    RunFolder(str(tmp_path)).open().close()


def test_second_process_is_refused_and_another_script_is_not(tmp_path, lock_elsewhere):
    lock_elsewhere(tmp_path / ".lock")
    with pytest.raises(UserError, match="another process"):
        RunFolder(str(tmp_path)).open()
    RunFolder(str(tmp_path), "_aug").open().close()


def test_training_is_not_overwritten_while_a_script_works_on_its_model(tmp_path, lock_elsewhere):
    (tmp_path / "metrics_aug.csv").touch()
    lock_elsewhere(tmp_path / ".lock_aug")
    with RunFolder(str(tmp_path), "_aug_ftl").open(overwrite=True):
        pass
    for _ in range(2):  # the lock that the first one took is free again
        with pytest.raises(UserError, match="another process is at work there"):
            RunFolder(str(tmp_path)).open(overwrite=True)
    assert (tmp_path / "metrics_aug.csv").exists()
    with RunFolder(str(tmp_path)).open():
        pass


def test_lock_ends_with_its_process_and_not_with_what_it_forked(tmp_path):
    """A loading process that outlives a killed run for seconds must not keep the run from being resumed."""
    code = (
        "import os, sys, time; from utils.training.folder import RunFolder; RunFolder(sys.argv[1]).open()\n"
        "child = os.fork()\n"
        "if child == 0: os.close(1); time.sleep(60)\n"
        "print(child, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    forked = int(done.stdout)
    try:
        RunFolder(str(tmp_path)).open().close()
        assert os.path.exists(f"/proc/{forked}")
    finally:
        os.kill(forked, signal.SIGKILL)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(str(tmp_path / "file" / "run")).open()


def test_undefined_is_an_empty_cell(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write_rows("metrics.csv", [{"epoch": 1, "auc": None}, {"epoch": 2, "auc": 0.5}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,auc\n1,\n2,0.5\n"


def test_predictions(tmp_path):
    folder = RunFolder(str(tmp_path))
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]])
    predictions = Predictions(np.array([1, 0]), np.array([1, 0]), probabilities, np.array([0, 0]))
    folder.write_measurement(Measurement.of(predictions, np.array(["y", "x"]), ["a, b", "c"], [5, 5]), 3)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"id": "x", "target": "1", "prediction": "1", "p_a, b": "0.25", "p_c": "0.75"}


def test_predictions_of_many_images_take_little_memory(tmp_path, monkeypatch):
    """The table is written in pieces, and is the same as in one."""
    monkeypatch.setattr(files, "TABLE_CHUNK", 10_000)
    count, classes = 1000, 60
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), count).astype(np.float32)
    targets = np.arange(count) % classes
    ids = np.array([f"i{row}" for row in range(count)])
    found = Predictions(np.arange(count), targets, probabilities, np.zeros(count, np.int64))
    measurement = Measurement({}, found, ids, [f"c{label}" for label in range(classes)], [1] * classes)
    tracemalloc.start()
    RunFolder(str(tmp_path)).write_measurement(measurement, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path = tmp_path / "predictions.csv"
    assert peak < path.stat().st_size / 2
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ids.tolist()
    assert np.array_equal(np.array([float(rows[7][f"p_c{c}"]) for c in range(classes)], np.float32), probabilities[7])
