"""An interrupted run, resumed, ends where an uninterrupted one ends, bit for bit."""

import csv
import shutil

import pytest
import torch
from conftest import SMALL_MODEL

from utils import engine
from utils.checkpoint import digest, load_checkpoint, save_checkpoint

TRAIN = ["Digits_LT", *SMALL_MODEL, "--batch-size=64", "--epochs=3", "--T-max=2", "--max-steps=3", "--quiet"]
AUGMENT = ["Digits_LT", "--batch-size=50", "--epochs=3", "--T-max=3", "--max-steps=12", "--workers=0", "--quiet"]


class Interruption(Exception):
    """Stands for a crash."""


def rows_without_time(path):
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if "time" not in k} for row in csv.DictReader(file)]


def essence(checkpoint):
    """All that a run computes: the arguments name the folder, clocks differ."""
    timeless = [{k: v for k, v in row.items() if k != "time"} for row in checkpoint["history"]]
    kept = {k: checkpoint[k] for k in ("epoch", "state_dict", "optimizer", "best", "class_counts")}
    result = {k: v for k, v in checkpoint["result"].items() if k != "time"}
    return digest({**kept, "history": timeless, "result": result})


def crash_in(monkeypatch, name, call, error=Interruption):
    """Let the `call`-th call of a step of the engine raise."""
    calls = []
    original = getattr(engine, name)

    def crashing(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(engine, name, crashing)


@pytest.mark.parametrize(
    ("flags", "where", "call"),
    [
        ([], "global_noise", 5),  # in the second epoch
        (["--val-fraction=0.3", "--warmup-epochs=1", "--workers=2"], "global_noise", 8),
        (["--generative", "--clip-grad=1", "--gmm-assign=label"], "to_device", 1 + 3 * 2 + 7),  # in an evaluation
    ],
    ids=["plain", "hold-out, warm-up, workers", "generative"],
)
def test_resumed_training_equals_uninterrupted(flags, where, call, script, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, *flags, f"--logdir={whole}").status == 0
    with monkeypatch.context() as patch:
        crash_in(patch, where, call)
        import train

        with pytest.raises(Interruption):
            train.main([*TRAIN, *flags, f"--logdir={broken}"])
    assert 1 <= load_checkpoint(broken / "checkpoint.pth")["epoch"] < 3
    resumed = script("train", *TRAIN, *flags, f"--logdir={broken}", "--resume=auto")
    assert resumed.status == 0, resumed.err
    ends = [load_checkpoint(folder / "checkpoint.pth") for folder in (whole, broken)]
    assert essence(ends[0]) == essence(ends[1])
    assert rows_without_time(whole / "metrics.csv") == rows_without_time(broken / "metrics.csv")
    assert (whole / "predictions.csv").read_bytes() == (broken / "predictions.csv").read_bytes()


def test_a_run_that_does_not_restore_differs(script, tmp_path):
    """Negative control: the same comparison sees a run that forgets its momentum."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, f"--logdir={whole}").status == 0
    assert script("train", *TRAIN, "--epochs=2", f"--logdir={broken}").status == 0
    checkpoint = load_checkpoint(broken / "checkpoint.pth")
    checkpoint["optimizer"]["state"] = {}
    save_checkpoint(broken / "checkpoint.pth", checkpoint)
    assert script("train", *TRAIN, f"--logdir={broken}", "--resume=auto").status == 0
    ends = [load_checkpoint(folder / "checkpoint.pth") for folder in (whole, broken)]
    assert essence(ends[0]) != essence(ends[1])


@pytest.mark.parametrize(("name", "flags"), [("augment", []), ("augment_ftl", ["--rep-method=get_rep_nums2"])])
def test_resumed_augmentation_equals_uninterrupted(name, flags, script, tmp_path, trained_digits, monkeypatch):
    suffix = name.replace("augment", "aug")
    for folder in ("whole", "broken"):
        shutil.copytree(trained_digits, tmp_path / folder)
    run = {
        folder: [f"--logdir={tmp_path / folder}", "--resume=auto", *AUGMENT, *flags] for folder in ("whole", "broken")
    }
    done = script(name, *run["whole"])
    assert done.status == 0, done.err
    assert script(name, *run["broken"], "--epochs=1").status == 0
    assert load_checkpoint(tmp_path / "broken" / f"checkpoint_{suffix}.pth")["epoch"] == 1
    assert script(name, *run["broken"]).status == 0
    ends = [load_checkpoint(tmp_path / folder / f"checkpoint_{suffix}.pth") for folder in ("whole", "broken")]
    assert essence(ends[0]) == essence(ends[1])
    assert rows_without_time(tmp_path / "whole" / f"metrics_{suffix}.csv") == rows_without_time(
        tmp_path / "broken" / f"metrics_{suffix}.csv"
    )


def test_two_runs_of_one_command_are_equal_and_another_seed_differs(script, tmp_path):
    runs = {"a": [], "b": [], "c": ["--seed=1"]}
    for name, flags in runs.items():
        assert script("train", *TRAIN, "--epochs=1", *flags, f"--logdir={tmp_path / name}").status == 0
    states = [digest(load_checkpoint(tmp_path / name / "checkpoint.pth")["state_dict"]) for name in runs]
    assert states[0] == states[1] != states[2]


def test_workers_do_not_change_a_number(script, tmp_path):
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        assert script("train", *TRAIN, "--epochs=1", f"--workers={workers}", f"--logdir={folder}").status == 0
    states = [digest(load_checkpoint(tmp_path / name / "checkpoint.pth")["state_dict"]) for name in ("0", "2")]
    assert states[0] == states[1]


def test_finished_run_prints_its_result_and_trains_nothing(script, tmp_path, trained_digits, monkeypatch):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(engine, "global_noise", lambda *_: pytest.fail("a step was taken"))
    done = script("train", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto")
    assert done.status == 0
    assert done.result == load_checkpoint(tmp_path / "checkpoint.pth")["result"]


def test_flags_not_given_come_from_the_checkpoint(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    done = script("train", "Digits_LT", "--epochs=3", f"--logdir={tmp_path}", "--resume=auto", "--workers=0")
    assert done.status == 0, done.err
    stored = load_checkpoint(tmp_path / "checkpoint.pth")
    assert (stored["epoch"], stored["args"]["z_dim"], stored["args"]["batch_size"]) == (3, 32, 64)


def test_resume_into_another_folder_brings_the_history(script, tmp_path, trained_digits):
    path = trained_digits / "checkpoint.pth"
    done = script("train", "Digits_LT", "--epochs=3", f"--logdir={tmp_path}", f"--resume={path}", "--workers=0")
    assert done.status == 0, done.err
    assert [row["epoch"] for row in rows_without_time(tmp_path / "metrics.csv")] == ["1", "2", "3"]


def test_start_epoch_goes_back(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    flags = ["--epochs=3", "--start-epoch=1", "--workers=0", "--resume=auto"]
    assert script("train", "Digits_LT", *flags, f"--logdir={tmp_path}").status == 0
    assert [row["epoch"] for row in rows_without_time(tmp_path / "metrics.csv")] == ["1", "2", "3"]


def test_best_epoch_is_kept_and_differs_from_the_last(script, tmp_path, monkeypatch):
    from utils import run

    scores = iter([0.9, 0.2, 0.1])
    original = run.Measurement.of.__func__

    def scripted(cls, predictions, dataset, counts):
        measured = original(cls, predictions, dataset, counts)
        measured.numbers["acsa"] = next(scores, measured.numbers["acsa"])
        return measured

    monkeypatch.setattr(run.Measurement, "of", classmethod(scripted))
    done = script("train", *TRAIN, "--val-fraction=0.3", f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert (done.result["epoch"], done.result["split"]) == (1, "test")
    best, last = (load_checkpoint(tmp_path / name) for name in ("model_best.pth", "checkpoint.pth"))
    assert (best["epoch"], last["epoch"]) == (1, 3)
    assert not torch.equal(best["state_dict"]["mu_head.weight"], last["state_dict"]["mu_head.weight"])
    rows = rows_without_time(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["split"]) for row in rows] == [("1", "val"), ("2", "val"), ("3", "val"), ("1", "test")]
