"""An interrupted run, resumed, ends where an uninterrupted one ends, bit for bit."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import augment
import codes
import train
from helpers.project import SMALL_MODEL
from models import starting
from models.dgcmm import DGCMM
from scripts.compare_runs import differences
from utils import metrics
from utils.distributed.world import World
from utils.errors import NotFinite, UserError
from utils.files import read_rows
from utils.stopping import SIGNALS
from utils.training import run
from utils.training.checkpoint import digest, load_checkpoint, save_checkpoint
from utils.training.position import Position, own_position
from utils.training.step import Stepper

TRAIN = [
    *("Digits_LT", *SMALL_MODEL, "--batch-size=24", "--epochs=3", "--max-steps=3", "--quiet"),
    *("--T-max=2", "--lr-warmup-epochs=2"),
]
AUGMENT = ["Digits_LT", "--batch-size=50", "--epochs=3", "--T-max=3", "--max-steps=12", "--workers=0", "--quiet"]
# where a run can be: what is called there
PLACES = {
    "step": (Stepper, "take"),
    "images": (train, "to_unit_range"),  # of a step, of an evaluation
    "prior": (starting, "to_unit_range"),  # at its start
    "codes": (codes, "to_unit_range"),
    "scores": (DGCMM, "responsible_component"),  # of a batch
    "measurement": (metrics.Measurement, "of"),
    "save": (run, "save_checkpoint"),
}


class Interruption(Exception):
    """Stands for a crash."""


def rows_without_time(path):
    return [{k: v for k, v in row.items() if "time" not in k} for row in read_rows(path)]


def at_call(monkeypatch, place, call, action):
    """Do something before the `call`-th call at a place."""
    owner, name = PLACES[place]
    calls = []
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def crash():
    raise Interruption


def signalled(signum):
    """The process gets a signal."""
    return lambda: os.kill(os.getpid(), signum)


def stop_in_turn(script, name, argv, moments, monkeypatch):
    """Start a command and continue it, each time to a signal at the next of the moments; the last end is a good one."""
    for turn, (place, call) in enumerate(moments):
        signum = SIGNALS[turn % len(SIGNALS)]
        with monkeypatch.context() as patch:
            at_call(patch, place, call, signalled(signum))
            done = script(name, *argv)
        assert done.status == 128 + signum, (place, call, done)
        assert done.err.splitlines()[-1].startswith(f"stopped by {signum.name}"), done.err
    done = script(name, *argv)
    assert done.status == 0, done.err
    assert "Warning" not in done.err


def measure_as(monkeypatch, *numbers):
    """Let the next measurements find these balanced accuracies."""
    scores = iter(numbers)
    original = metrics.Measurement.of.__func__

    def scripted(cls, *args):
        measured = original(cls, *args)
        measured.numbers["acsa"] = next(scores, measured.numbers["acsa"])
        return measured

    monkeypatch.setattr(metrics.Measurement, "of", classmethod(scripted))


@pytest.mark.parametrize(
    ("flags", "moments"),
    [
        (
            ["--save-every=2", "--initial-sigma=0.5", "--prior-variance", "0.2", "0.4"],
            [("step", 1), ("step", 2), ("prior", 2), ("images", 2), ("save", 1), ("measurement", 1)],
        ),
        (
            [
                *("--val-fraction=0.3", "--warmup-epochs=1", "--warmup-threshold=9", "--workers=2", "--batch-size=64"),
                *("--seed=3", "--clip-grad=0"),  # with these the second epoch is the best, and saved so
            ],
            [("step", 2), ("images", 3), ("images", 5), ("save", 2), ("images", 6), ("images", 1)],
        ),
    ],
    ids=["plain", "hold-out, warm-up, workers"],
)
def test_training_stopped_again_and_again_equals_uninterrupted(flags, moments, script, tmp_path, monkeypatch):
    """Before the first checkpoint, in a step, in the prior's start, while measuring, while saving, at the very end."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, *flags, f"--logdir={whole}").status == 0
    if "--seed=3" in flags:
        assert load_checkpoint(whole / "model_best.pth")["epoch"] == 2
    argv = [*TRAIN, *flags, f"--logdir={broken}", "--resume=auto"]
    stop_in_turn(script, "train", argv, moments, monkeypatch)
    assert differences(whole, broken) == []


@pytest.mark.parametrize(
    ("flags", "place", "call"),
    [
        (["--save-every=2"], "step", 6),  # in the second epoch, after a step that was not saved
        (["--generative", "--clip-grad=1", "--gmm-assign=label"], "images", 2 * (3 + 3) + 3 + 2),  # in an evaluation
    ],
    ids=["plain", "generative"],
)
def test_training_after_a_crash_equals_uninterrupted(flags, place, call, script, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, *flags, f"--logdir={whole}").status == 0
    with monkeypatch.context() as patch:
        at_call(patch, place, call, crash)
        with pytest.raises(Interruption):
            train.main([*TRAIN, *flags, f"--logdir={broken}"])
    found = load_checkpoint(broken / "checkpoint.pth")
    assert (0, 0) < (found["epoch"], found["step"]) < (3, 0)
    assert script("train", *TRAIN, *flags, f"--logdir={broken}", "--resume=auto").status == 0
    assert differences(whole, broken) == []


def test_epochs_between_those_that_are_measured_have_losses_alone(script, tmp_path, monkeypatch):
    """The best epoch is of those that were measured; stopped in two epochs, one measured and one not."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = [*TRAIN, "--arch=resnet32_vae3", "--eval-every=2", "--val-per-class=6", "--epochs=5"]
    done = script("train", *flags, f"--logdir={whole}")
    assert done.status == 0, done.err
    stop_in_turn(
        script,
        "train",
        [*flags, f"--logdir={broken}", "--resume=auto"],
        [("step", 2), ("step", 4), ("measurement", 1)],
        monkeypatch,
    )
    assert differences(whole, broken) == []
    *rows, test = rows_without_time(whole / "metrics.csv")
    assert [(row["epoch"], row["split"]) for row in rows] == [
        ("1", ""),
        ("2", "val"),
        ("3", ""),
        ("4", "val"),
        ("5", "val"),
    ]
    assert [bool(row["acsa"]) for row in rows] == [False, True, False, True, True]
    assert all(row["loss"] and row["loss_gmm"] and row["lr"] for row in rows)
    best = max((row for row in rows if row["acsa"]), key=lambda row: float(row["acsa"]))
    assert (test["split"], test["epoch"]) == ("test", best["epoch"])


def test_damaged_checkpoint_makes_auto_go_back_aloud_and_a_named_path_fail(script, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, f"--logdir={whole}").status == 0
    with monkeypatch.context() as patch:
        at_call(patch, "step", 3 + 3 + 2, signalled(signal.SIGTERM))  # saved after two epochs, then within the third
        assert script("train", *TRAIN, f"--logdir={broken}").status == 143
    path = broken / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:-5000])
    named = script("train", *TRAIN, f"--logdir={broken}", f"--resume={path}")
    assert named.status == 2
    assert str(path) in named.error
    done = script("train", *TRAIN, f"--logdir={broken}", "--resume=auto")
    assert done.status == 0, done.err
    assert f"GOING BACK to {broken / 'checkpoint_prev.pth'}, after epoch 2" in done.err
    assert differences(whole, broken) == []


def test_best_epoch_saved_before_a_crash_still_counts(script, tmp_path, monkeypatch):
    """The best epoch is saved, then the run; a crash in between, and a continuation that never gets as good again."""
    measure_as(monkeypatch, 0.3, 0.9, 0.2, 0.1)
    argv = [*TRAIN, "--val-fraction=0.3", f"--logdir={tmp_path}"]
    with monkeypatch.context() as patch:
        at_call(patch, "save", 4, crash)
        with pytest.raises(Interruption):
            train.main(argv)
    done = script("train", *argv, "--resume=auto")
    assert done.status == 0, done.err
    assert done.result["epoch"] == 2
    assert load_checkpoint(tmp_path / "checkpoint.pth")["best"] == {"epoch": 2, "acsa": 0.9}


def test_a_run_that_does_not_restore_differs(script, tmp_path):
    """Negative control: the same comparison sees a run that forgets its momentum."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, f"--logdir={whole}").status == 0
    assert script("train", *TRAIN, "--epochs=2", f"--logdir={broken}").status == 0
    checkpoint = load_checkpoint(broken / "checkpoint.pth")
    checkpoint["optimizer"]["state"] = {}
    save_checkpoint(broken / "checkpoint.pth", checkpoint)
    assert script("train", *TRAIN, f"--logdir={broken}", "--resume=auto").status == 0
    assert "checkpoint.pth: state_dict" in differences(whole, broken)


@pytest.mark.parametrize(
    ("name", "flags", "others"),
    [
        ("augment", ["--start=adjusted"], ["--start=trained"]),
        ("augment_ftl", ["--rep-method=get_rep_nums2", "--ftl-rank=3"], ["--rep-method=get_rep_nums1", "--ftl-rank=2"]),
    ],
)
def test_augmentation_stopped_again_and_again_equals_uninterrupted(
    name, flags, others, script, tmp_path, trained_digits, monkeypatch
):
    """Among the codes, before the first checkpoint, in a step, while measuring and while saving."""
    for folder in ("whole", "broken"):
        shutil.copytree(trained_digits, tmp_path / folder)
    whole, broken = (
        [f"--logdir={tmp_path / folder}", "--resume=auto", *AUGMENT, *flags] for folder in ("whole", "broken")
    )
    done = script(name, *whole)
    assert done.status == 0, done.err
    moments = [("codes", 2), ("step", 1), ("step", 5), ("scores", 1), ("measurement", 1), ("step", 9), ("save", 1)]
    stop_in_turn(script, name, broken, moments, monkeypatch)
    assert differences(tmp_path / "whole", tmp_path / "broken") == []
    for flag, other in zip(flags, others, strict=True):
        (key, own), (_, value) = flag.split("="), other.split("=")
        assert f"{key} is {value} here but {own} in" in script(name, *broken, other).error
    factor = script(name, *[word for word in broken if "T-max" not in word], "--epochs=4", "--gamma=0.5")
    assert "--gamma is the factor of a step, and --T-max takes none" in factor.error


def test_two_runs_of_one_command_are_equal_whoever_loads_and_another_seed_differs(script, tmp_path):
    runs = {"a": ["--workers=0"], "b": ["--workers=2"], "c": ["--workers=0", "--seed=1"]}
    for name, flags in runs.items():
        assert script("train", *TRAIN, "--epochs=1", *flags, f"--logdir={tmp_path / name}").status == 0
    states = [digest(load_checkpoint(tmp_path / name / "checkpoint.pth")["state_dict"]) for name in runs]
    assert states[0] == states[1] != states[2]


def test_finished_run_prints_its_result_and_changes_nothing(script, tmp_path, trained_digits, monkeypatch):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(train, "train_epoch", lambda *_: pytest.fail("an epoch was trained"))
    done = script("train", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto")
    assert done.status == 0
    assert done.result == load_checkpoint(tmp_path / "checkpoint.pth")["result"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["augment", "augment_ftl"])
def test_finished_re_training_prints_its_result_alone(name, script, tmp_path, trained_digits, monkeypatch):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    retrain = ["Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--epochs=1", "--workers=0"]
    first = script(name, *retrain)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for what in ("load_or_extract", "train_epoch"):
        monkeypatch.setattr(augment, what, lambda *_: pytest.fail("codes were extracted, or an epoch trained"))
    again = script(name, *retrain)
    assert (again.status, again.result) == (0, first.result)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_finished_run_lets_the_others_go_before_its_figures(script, tmp_path, trained_digits, monkeypatch):
    """Which may take longer than other processes would wait."""
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    order = []
    monkeypatch.setattr(World, "leave", lambda _: order.append("others leave"))
    monkeypatch.setattr(train, "report", lambda *_: order.append("figures"))
    script("train", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto")
    assert order == ["others leave", "figures"]


@pytest.mark.parametrize("flags", [[], ["--deterministic"]])
def test_deterministic_run_stays_so_and_any_run_may_become_so(flags, script, tmp_path, trained_digits, monkeypatch):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    stored["args"]["deterministic"] = not flags
    save_checkpoint(tmp_path / "checkpoint.pth", stored)

    def restrict():
        raise UserError("restricted")

    monkeypatch.setattr(train, "repeat_exactly", restrict)
    monkeypatch.setattr(augment, "repeat_exactly", restrict)
    retraining = ["--resume=auto", "--epochs=1", "--workers=0", f"--logdir={tmp_path}", *flags]
    done = script("augment", "Digits_LT", *retraining)
    assert (done.status, "restricted" in done.err) == (2 if flags else 0, bool(flags))
    done = script("train", "Digits_LT", "--resume=auto", f"--logdir={tmp_path}", "--epochs=3", *flags)
    assert "restricted" in done.error


def test_resume_into_another_folder_brings_the_history_and_the_flags_not_given(script, tmp_path, trained_digits):
    path = trained_digits / "checkpoint.pth"
    done = script("train", "Digits_LT", "--epochs=3", f"--logdir={tmp_path}", f"--resume={path}", "--workers=0")
    assert done.status == 0, done.err
    assert [row["epoch"] for row in rows_without_time(tmp_path / "metrics.csv")] == ["1", "2", "3"]
    stored = load_checkpoint(tmp_path / "checkpoint.pth")
    assert (stored["epoch"], stored["args"]["z_dim"], stored["args"]["batch_size"]) == (3, 32, 64)


@pytest.mark.parametrize("name", ["train", "augment"])
def test_epoch_that_has_begun_is_not_reported_as_the_one_before(name, script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    trained = load_checkpoint(tmp_path / "checkpoint.pth")
    begun = {"step": 3, "kind": "train" if name == "train" else "aug", "trained_sha256": digest(trained["state_dict"])}
    path = tmp_path / ("checkpoint.pth" if name == "train" else "checkpoint_aug.pth")
    save_checkpoint(path, trained | begun)
    before = sorted(tmp_path.iterdir())
    done = script(name, "Digits_LT", "--resume=auto", "--epochs=2", "--workers=0", f"--logdir={tmp_path}")
    assert done.status == 2
    assert f"{path} has 3 steps of epoch 3: end that epoch, --epochs=3, or give more" in done.error
    assert sorted(tmp_path.iterdir()) == before


def test_model_that_went_astray_is_not_saved_over_the_last_checkpoint(script, tmp_path, monkeypatch):
    checks = []

    def check(probabilities, remedy):
        checks.append(1)
        if len(checks) == 2:
            raise NotFinite(remedy)

    monkeypatch.setattr(train, "require_finite", check)
    assert script("train", *TRAIN, f"--logdir={tmp_path}").error.endswith(
        "astray; lower --lr, --prior-lr or --clip-grad (now 5); the last checkpoint is as it was"
    )
    last = load_checkpoint(tmp_path / "checkpoint.pth")
    assert (last["epoch"], last["step"]) == (1, 0)


def test_start_epoch_goes_back_once(script, tmp_path, trained_digits, monkeypatch):
    """Of a run that is finished; a scheduler gives the same command again, whatever happened."""
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    flags = ["--epochs=2", "--start-epoch=1", "--workers=0", "--resume=auto"]
    with monkeypatch.context() as patch:
        at_call(patch, "step", 1, crash)
        with pytest.raises(Interruption):
            script("train", "Digits_LT", *flags, f"--logdir={tmp_path}")
    assert load_checkpoint(tmp_path / "checkpoint.pth")["epoch"] == 1  # it is another run from here on
    done = script("train", "Digits_LT", *flags, f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert "continuing after epoch 1/2\n" in done.out
    (back, _) = json.loads((tmp_path / "args.json").read_text())["resumed"]
    assert (back["after_epoch"], back["changed"]) == (1, {"start_epoch": [None, 1]})
    assert [row["epoch"] for row in rows_without_time(tmp_path / "metrics.csv")] == ["1", "2"]
    again = script("train", "Digits_LT", *flags, f"--logdir={tmp_path}")
    assert "--start-epoch 1: this run has gone back already, and goes on" in again.out
    assert again.result == done.result
    others = [flag for flag in flags if "start-epoch" not in flag]
    more = script("train", "Digits_LT", *others, "--epochs=3", f"--logdir={tmp_path}")  # by hand, without that flag
    assert "continuing after epoch 2/3\n" in more.out
    assert script("train", "Digits_LT", *flags, "--epochs=3", f"--logdir={tmp_path}").result == more.result


@pytest.mark.parametrize(
    ("name", "moves"), [("augment", "models.classifier.ImageClassifier.to"), ("predict", "predict.TrainedModel.to")]
)
def test_gpu_that_has_no_room_for_the_model_is_told(name, moves, script, tmp_path, trained_digits, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(moves, exhausted)
    shutil.copy(trained_digits / "checkpoint.pth", tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    words = {"augment": ["Digits_LT", f"--logdir={tmp_path}", "--resume=auto"]}
    words["predict"] = [tmp_path / "checkpoint.pth", tmp_path / "image.png", f"--out={tmp_path}/out.csv"]
    done = script(name, *words[name])
    assert done.status == 2
    assert done.error.endswith(
        "Tried to allocate 2.00 GiB.): give a GPU that holds the model (--gpu), or none (CUDA_VISIBLE_DEVICES=)"
    )


def test_run_whose_memory_ran_out_goes_on_with_a_smaller_batch_and_a_longer_schedule(script, tmp_path, monkeypatch):
    def exhausted():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    argv = [*TRAIN, f"--logdir={tmp_path}", "--overwrite"]
    with monkeypatch.context() as patch:
        at_call(patch, "step", 3 + 2, exhausted)
        done = script("train", *argv)
    assert done.status == 2
    remedy = "--batch-size; --resume=auto goes on from the last checkpoint with it, if there is one"
    assert done.error.endswith(f"give a smaller {remedy}")
    smaller = ["Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--workers=0", "--batch-size=12", "--T-max=4"]
    done = script("train", *smaller, "--epochs=4")
    assert done.status == 0, done.err
    changes = "--batch-size is 12 now, 24 before, --T-max is 4 now, 2 before: from epoch 2 on this is another run"
    assert changes in done.err
    assert "learning rate 0.00427 in epoch 2, 0.000741 in epoch 4" in done.out
    resumed = json.loads((tmp_path / "args.json").read_text())["resumed"]
    assert resumed[0]["changed"] == {"epochs": [3, 4], "batch_size": [24, 12], "T_max": [2, 4]}
    again = script("train", *smaller, "--epochs=4")
    assert (again.status, again.err) == (0, "warning: this run was a trial, with --max-steps 3\n")


def test_board_that_cannot_be_closed_does_not_hide_how_a_run_ended(script, tmp_path, monkeypatch):
    def full(_):
        raise UserError("no room for the events")

    monkeypatch.setattr(run.Board, "close", full)
    at_call(monkeypatch, "step", 2, signalled(signal.SIGTERM))
    done = script("train", *TRAIN, f"--logdir={tmp_path}")
    assert done.status == 143
    assert "warning: no room for the events" in done.err
    assert done.err.splitlines()[-1].startswith("stopped by SIGTERM: saved")


def test_sums_of_an_epoch_whose_steps_are_done_go_to_one_of_more_processes(caplog):
    checkpoint = {"step": 9, "sums": [(72, (72.0, 36.0, 18.0, 9.0))]}
    worlds = [SimpleNamespace(rank=rank, size=2, is_main=rank == 0) for rank in (0, 1)]
    parts = [own_position(checkpoint, world) for world in worlds]
    assert parts == [Position(9, 72, (72.0, 36.0, 18.0, 9.0)), Position(9, 0, (0.0,) * 4)]
    assert all(
        "2 process(es) continue what 1 began" in said and "with 1 they do not" in said for said in caplog.messages
    )
    assert len(caplog.messages) == 2
    of_two = {"step": 9, "sums": [(40, (40.0, 20.0, 10.0, 5.0)), (32, (32.0, 16.0, 8.0, 4.0))]}
    alone = own_position(of_two, SimpleNamespace(rank=0, size=1, is_main=True))
    assert alone == Position(9, 72, (72.0, 36.0, 18.0, 9.0))


def test_file_that_was_gone_back_to_is_not_replaced_by_the_damaged_one(script, tmp_path, trained_digits, monkeypatch):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    path, previous = tmp_path / "checkpoint.pth", tmp_path / "checkpoint_prev.pth"
    path.write_bytes(path.read_bytes()[:1000])
    saves, original = [], run.save_checkpoint
    monkeypatch.setattr(run, "save_checkpoint", lambda *args: saves.append(args[2]) or original(*args))
    done = script("train", "Digits_LT", "--resume=auto", "--epochs=3", "--workers=0", f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert "GOING BACK" in done.err
    assert saves == [None, previous]  # after the epoch, and at the end


def test_file_that_nobody_has_looked_at_does_not_replace_the_one_before(script, tmp_path, trained_digits, monkeypatch):
    for name in ("third", "checkpoint_prev", "checkpoint"):
        shutil.copy(trained_digits / "checkpoint.pth", tmp_path / f"{name}.pth")
    (tmp_path / "checkpoint.pth").write_bytes(b"damaged")
    saves, original = [], run.save_checkpoint
    monkeypatch.setattr(run, "save_checkpoint", lambda *args: saves.append(args[2]) or original(*args))
    flags = [f"--resume={tmp_path}/third.pth", "--epochs=3", "--workers=0", f"--logdir={tmp_path}"]
    assert script("train", "Digits_LT", *flags).status == 0
    assert saves == [None, tmp_path / "checkpoint_prev.pth"]


@pytest.mark.parametrize(
    ("later", "nodes", "flags", "lost"),
    [(3, 1, [], False), (3, 2, [], False), (3, 1, ["--batch-size=500"], True), (4, 1, [], True)],
    ids=["the next epoch, again", "on fewer nodes", "the next epoch, another way", "a later epoch"],
)
def test_best_epoch_of_a_continuation_that_is_left_does_not_count(
    later, nodes, flags, lost, script, tmp_path, trained_digits
):
    stored = load_checkpoint(trained_digits / "checkpoint.pth") | {"machine": {"threads": 99}, "nodes": nodes}
    for name, best in (("checkpoint", {"epoch": 1, "acsa": 0.9}), ("model_best", {"epoch": later, "acsa": 0.95})):
        save_checkpoint(tmp_path / f"{name}.pth", stored | {"best": best})
    done = script("train", "Digits_LT", "--resume=auto", "--epochs=3", "--workers=0", f"--logdir={tmp_path}", *flags)
    assert done.status == 0, done.err
    told = f"model_best.pth has epoch {later}, the best one of {tmp_path}/checkpoint.pth was 1: that one is lost"
    assert (told in done.err) == lost
    assert (load_checkpoint(tmp_path / "checkpoint.pth")["best"] is None) == lost
    assert "checkpoint.pth: threads 99 then and" in done.err


@pytest.mark.parametrize("script_name", ["train", "predict"])
def test_model_within_an_epoch_is_not_taken_for_that_of_the_one_before(script_name, script, tmp_path, trained_digits):
    path, image = tmp_path / "begun.pth", tmp_path / "image.png"
    save_checkpoint(path, load_checkpoint(trained_digits / "checkpoint.pth") | {"epoch": 1, "step": 4})
    Image.new("L", (8, 8)).save(image)
    words = {"train": ["Digits_LT", "--evaluate", f"--resume={path}", f"--logdir={tmp_path}/new"]}
    words["predict"] = [path, image, f"--out={tmp_path}/out.csv"]
    done = script(script_name, *words[script_name], "--workers=0")
    assert done.status == 0, done.err
    assert f"{path} was saved within epoch 2, after 4 steps of it" in done.err


def test_best_epoch_goes_along_into_another_folder_and_takes_the_place_of_a_foreign_one(script, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    measure_as(monkeypatch, 0.9)
    flags = [*TRAIN, "--val-fraction=0.3"]
    assert script("train", *flags, "--epochs=1", f"--logdir={old}").status == 0
    new.mkdir()
    (new / "model_best.pth").write_bytes(b"another run's")
    measure_as(monkeypatch, 0.1)
    flags = ["--epochs=2", "--overwrite", f"--logdir={new}"]
    done = script("train", "Digits_LT", f"--resume={old}/checkpoint.pth", *flags)
    assert done.status == 0, done.err
    assert done.result["epoch"] == 1
    assert load_checkpoint(new / "model_best.pth")["epoch"] == 1


def test_best_epoch_of_what_a_run_did_later_does_not_go_along(script, tmp_path, trained_digits):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    for name, best in (("checkpoint", {"epoch": 1, "acsa": 0.9}), ("model_best", {"epoch": 2, "acsa": 0.95})):
        save_checkpoint(tmp_path / f"{name}.pth", stored | {"best": best})
    flags = [f"--resume={tmp_path}/checkpoint.pth", "--epochs=3", "--workers=0", f"--logdir={tmp_path}/new"]
    refused = script("train", "Digits_LT", *flags)
    assert refused.status == 2
    assert "model_best.pth has epoch 2, the best one of" in refused.error


def test_best_epoch_that_is_put_back_wrongly_is_told(script, tmp_path, trained_digits):
    stored = load_checkpoint(trained_digits / "checkpoint.pth")
    save_checkpoint(tmp_path / "checkpoint.pth", stored | {"best": {"epoch": 1, "acsa": 0.9}})
    save_checkpoint(tmp_path / "model_best.pth", stored)
    refused = script("train", "Digits_LT", "--resume=auto", "--epochs=3", "--workers=0", f"--logdir={tmp_path}")
    assert refused.status == 2
    assert "model_best.pth is of a run without validation images: put the right one back" in refused.error


def test_best_epoch_is_kept_and_it_alone_is_measured_on_the_test_images(script, tmp_path, monkeypatch):
    """It is the first of equals and differs from the last. A re-training looks at the held-out codes likewise."""
    seen, rebuilt, evaluate, classify = [], [], train.evaluate, augment.classify

    def noted(model, loader, *others):
        seen.append(loader.dataset.fingerprint())
        return evaluate(model, loader, *others)

    pairs = train.ClassPairs
    monkeypatch.setattr(train, "ClassPairs", lambda *args: rebuilt.append(args[1].fingerprint()) or pairs(*args))
    monkeypatch.setattr(train, "evaluate", noted)
    monkeypatch.setattr(augment, "classify", lambda *args: seen.append(args[1]["targets"].tolist()) or classify(*args))
    measure_as(monkeypatch, 0.9, 0.9, 0.1)
    done = script("train", *TRAIN, "--val-fraction=0.3", f"--logdir={tmp_path}")
    assert done.status == 0, done.err
    assert (done.result["epoch"], done.result["split"]) == (1, "test")
    best, last = (load_checkpoint(tmp_path / name) for name in ("model_best.pth", "checkpoint.pth"))
    assert (best["epoch"], last["epoch"]) == (1, 3)
    assert not torch.equal(best["state_dict"]["mu_head.weight"], last["state_dict"]["mu_head.weight"])
    assert not torch.equal(best["distance_quantiles"], last["distance_quantiles"])
    rows = rows_without_time(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["split"]) for row in rows] == [("1", "val"), ("2", "val"), ("3", "val"), ("1", "test")]
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars
    assert [[event.step for event in shown(f"{split}/acsa")] for split in ("val", "test")] == [[1, 2, 3], [1]]
    assert shown("test/acsa")[0].value == pytest.approx(float(rows[-1]["acsa"]))
    data = last["data_sha256"]
    assert seen == [data["val"]] * 3 + [data["test"]]
    health = json.loads((tmp_path / "health.json").read_text())
    assert (health["epoch"], health["split"], rebuilt) == (3, "val", [data["val"]])
    assert script("train", *TRAIN, "-e", f"--resume={tmp_path / 'model_best.pth'}", f"--logdir={tmp_path}").status == 0
    assert (tmp_path / "predictions_eval.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()
    seen.clear()
    assert script("augment", *AUGMENT, "--epochs=2", f"--logdir={tmp_path}", "--resume=auto").status == 0
    codes = torch.load(tmp_path / "checkpoint_codes.pth", weights_only=True)
    assert seen == [codes[split]["targets"].tolist() for split in ("val", "val", "test")]
    said = "is the last epoch, which --resume=auto of a re-training takes"
    assert [said in (tmp_path / name).read_text() for name in ("log.txt", "log_aug.txt")] == [True, False]
    save_checkpoint(tmp_path / "model_best.pth", best | {"best": {"epoch": 2, "acsa": 0.5}})
    measure_as(monkeypatch, 0.1)
    refused = script("train", "Digits_LT", "--epochs=4", f"--logdir={tmp_path}", "--resume=auto")
    assert refused.status == 2
    assert "the best one was 1: it belongs to another run; put the right one back" in refused.error


@pytest.mark.parametrize("hold_out", [[], ["--val-fraction=0.3"]], ids=["test", "val"])
@pytest.mark.parametrize("name", ["train", "augment"])
def test_epoch_that_became_the_last_is_measured_like_any_last_one(name, hold_out, script, tmp_path, monkeypatch):
    """A command with fewer --epochs ends the run at an epoch that `--eval-every` had left out."""
    flags, suffix = [f"--logdir={tmp_path}", "--resume=auto"], "" if name == "train" else "_aug"
    if name == "augment":
        assert script("train", *TRAIN, *hold_out, *flags).status == 0
    start = [*(TRAIN + hold_out if name == "train" else AUGMENT), "--eval-every=5", *flags]
    with monkeypatch.context() as patch:
        at_call(patch, "save", 3, crash)
        with pytest.raises(Interruption):
            script(name, *start)
    done = script(name, *start, "--epochs=2")
    assert done.status == 0, done.err
    rows = read_rows(tmp_path / f"metrics{suffix}.csv")
    expected = [("1", ""), ("2", "val"), ("2", "test")] if hold_out else [("1", ""), ("2", "test")]
    assert [(row["epoch"], row["split"]) for row in rows] == expected
    assert float(rows[-1]["acsa"]) == done.result["acsa"]
    assert all(row["loss"] for row in rows[:2])
    assert load_checkpoint(tmp_path / f"checkpoint{suffix}.pth")["history"][1]["split"] == expected[1][1]


def test_longer_re_training_is_told_that_its_learning_rate_rises_again(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    run = [*AUGMENT, f"--logdir={tmp_path}", "--resume=auto"]
    assert "rises again" not in script("augment", *run).err
    longer = script("augment", *run, "--epochs=5")
    assert longer.status == 0, longer.err
    assert "--T-max 3 of 5 epochs: the learning rate rises again from epoch 5 on" in longer.err


def test_time_of_an_epoch_has_what_passed_before_its_interruption(script, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, "step", 2, signalled(signal.SIGTERM))
        assert script("train", *TRAIN, f"--logdir={tmp_path}").status == 143
    path = tmp_path / "checkpoint.pth"
    stored = load_checkpoint(path)
    assert stored["elapsed_time"] > 0
    save_checkpoint(path, stored | {"elapsed_time": 1000.0})
    done = script("train", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--quiet")
    assert done.status == 0, done.err
    times = [float(row["time"]) for row in read_rows(tmp_path / "metrics.csv") if row["loss"]]
    assert times[0] > 1000 > max(times[1:])
    assert done.result["time"] == pytest.approx(sum(times))
    assert load_checkpoint(path)["elapsed_time"] == 0


def test_another_checkpoint_in_the_place_of_a_re_trainings_is_refused_in_a_line(script, tmp_path, trained_digits):
    for name in ("checkpoint.pth", "checkpoint_aug.pth"):
        shutil.copy(trained_digits / "checkpoint.pth", tmp_path / name)
    done = script("augment", *AUGMENT, f"--logdir={tmp_path}", "--resume=auto")
    assert done.status == 2
    assert "checkpoint_aug.pth was made from another model than" in done.error
