"""The scripts on a GPU: every way to train, both augmentations, evaluation, resuming, signals."""

import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import models.dgcmm
from helpers.data import load_part
from helpers.project import METRIC_NAMES, ROOT, SMALL_MODEL
from scripts.compare_runs import differences
from utils.files import read_rows
from utils.training.checkpoint import load_checkpoint
from utils.training.step import Stepper

pytestmark = pytest.mark.gpu

MODEL = [*SMALL_MODEL, "--new-size=32", "--crop-size=32"]
TRAIN = [
    "Digits_LT",
    *MODEL,
    "--batch-size=64",
    "--epochs=2",
    "--T-max=2",
    "--max-steps=3",
    "--quiet",
    "--no-figures",
]
AUGMENT = ["Digits_LT", "--batch-size=50", "--epochs=2", "--T-max=3", "--max-steps=8", "--workers=0", "--quiet"]


def tensors(value):
    """All tensors of a checkpoint."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


def stop_at_step(monkeypatch, number):
    """The process gets SIGTERM in the so-manieth step that it takes from now on."""
    calls, take = [], Stepper.take

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, *arguments)

    monkeypatch.setattr(Stepper, "take", counted)


def interrupted(script, name, argv, monkeypatch, number=2):
    """A command that is stopped in a step, and given again."""
    with monkeypatch.context() as patch:
        stop_at_step(patch, number)
        stopped = script(name, *argv)
    assert stopped.status == 143, stopped.err
    done = script(name, *argv)
    assert done.status == 0, done.err
    return done


WAYS = {
    "plain": [],
    "deterministic": ["--deterministic", "--gpu=0", "--workers=2"],
    "generative": ["--generative", "--save-every=2"],
    "generative, label, deterministic": ["--generative", "--gmm-assign=label", "--deterministic"],
    "warm-up, hold-out": ["--warmup-epochs=1", "--val-fraction=0.2"],
    "one term": ["--weight-reconst=0", "--weight-gmm=0"],
    "bf16": ["--amp=bf16"],
    "fp16": ["--amp=fp16", "--epochs=1"],
    "sync-bn": ["--sync-bn"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_augment_and_evaluate(way, script, tmp_path, device):
    if way in ("fp16", "sync-bn") and device.type == "cpu":
        pytest.skip("needs CUDA itself")
    run = [f"--logdir={tmp_path}", "--workers=0"]
    done = script("train", *TRAIN, *run, *WAYS[way])
    assert done.status == 0, done.err
    assert all(math.isfinite(float(row["loss"])) for row in read_rows(tmp_path / "metrics.csv") if row["loss"])
    stored = torch.load(tmp_path / "checkpoint.pth", weights_only=True)  # as a machine without a GPU reads it
    assert {tensor.device.type for tensor in tensors(stored)} == {"cpu"}
    assert all(tensor.isfinite().all() for tensor in tensors(stored["state_dict"]))
    repeats = [flag for flag in WAYS[way] if flag == "--deterministic"]
    result = "model_best" if any("--val" in flag for flag in WAYS[way]) else "checkpoint"
    again = ["--evaluate", f"--resume={tmp_path}/{result}.pth", "--batch-size=64", "--max-steps=3", "--quiet"]
    scored = script("train", "Digits_LT", *run, *repeats, *again)
    assert scored.status == 0, scored.err
    expected = {name: done.result[name] for name in METRIC_NAMES}
    tolerance = {"rel": 1e-9} if repeats else {"abs": 0.05}  # of 400 images, some lie between two classes
    assert {name: scored.result[name] for name in METRIC_NAMES} == pytest.approx(expected, **tolerance)
    for kind in ("augment", "augment_ftl"):
        made = script(kind, *AUGMENT, *run, *repeats, "--resume=auto")
        assert made.status == 0, made.err
        assert 0 <= made.result["acsa"] <= 1


@pytest.mark.parametrize("flags", [[], ["--generative"], ["--amp=bf16"]], ids=["plain", "generative", "bf16"])
def test_deterministic_run_resumes_bit_for_bit(flags, script, tmp_path, monkeypatch):
    """With its augmentations; an uninterrupted run is repeated in a process that has just started, too."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    exact = [*flags, "--deterministic"]
    assert script("train", *TRAIN, *exact, f"--logdir={whole}").status == 0
    interrupted(script, "train", [*TRAIN, *exact, f"--logdir={broken}", "--resume=auto"], monkeypatch)
    assert differences(whole, broken) == []
    for kind in ("augment", "augment_ftl"):
        argv = [*AUGMENT, "--deterministic", "--resume=auto"]
        assert script(kind, *argv, f"--logdir={whole}").status == 0
        interrupted(script, kind, [*argv, f"--logdir={broken}"], monkeypatch)
    assert differences(whole, broken) == []


def test_deterministic_flag_is_enough_in_a_new_process(script, tmp_path):
    """Nothing need be set in the environment."""
    runs = [tmp_path / "one", tmp_path / "other"]
    assert script("train", *TRAIN, "--deterministic", f"--logdir={runs[0]}").status == 0
    environ = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    words = [sys.executable, "train.py", *TRAIN, "--deterministic", f"--logdir={runs[1]}"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert differences(*runs) == []


def test_a_run_that_does_not_restore_differs(script, tmp_path, monkeypatch):
    """Negative control of the comparison."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, "--deterministic", f"--logdir={whole}").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
        interrupted(script, "train", [*TRAIN, "--deterministic", f"--logdir={broken}", "--resume=auto"], patch)
    assert "checkpoint.pth: state_dict" in differences(whole, broken)


def test_other_run_resumes_where_it_was(script, tmp_path, monkeypatch):
    """Without --deterministic: the same steps from the same weights, with sums in any order."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train", *TRAIN, f"--logdir={whole}").status == 0
    interrupted(script, "train", [*TRAIN, f"--logdir={broken}", "--resume=auto"], monkeypatch)
    found = [read_rows(folder / "metrics.csv") for folder in (whole, broken)]
    assert [row["epoch"] for row in found[1]] == ["1", "2"]
    # in the epoch that was interrupted; what is rounded otherwise grows in the next one
    for tolerance, one, other in zip((0.02, 0.3), *found, strict=True):
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=tolerance)
        assert other["lr"] == one["lr"]


def test_scaler_is_restored(cuda, script, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = [*TRAIN, "--amp=fp16", "--deterministic"]
    assert script("train", *flags, f"--logdir={whole}").status == 0
    interrupted(script, "train", [*flags, f"--logdir={broken}", "--resume=auto"], monkeypatch)
    assert load_checkpoint(whole / "checkpoint.pth")["scaler"]["scale"] > 1
    assert differences(whole, broken) == []


def test_checkpoint_of_a_gpu_continues_on_the_cpu(script, tmp_path):
    assert script("train", *TRAIN, f"--logdir={tmp_path}").status == 0
    words = [
        sys.executable,
        "train.py",
        "Digits_LT",
        f"--logdir={tmp_path}",
        "--resume=auto",
        "--epochs=3",
        "--no-figures",
    ]
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "checkpoint.pth")["epoch"] == 3


def test_loss_that_is_not_finite_stops_the_run_and_reaches_no_weight(script, tmp_path, monkeypatch):
    forward, seen = models.dgcmm.DGCMM.forward, []

    def poisoned(self, *arguments):
        terms = forward(self, *arguments)
        seen.append({name: value.detach().clone() for name, value in self.named_parameters()} | {"model": self})
        return terms._replace(total=terms.total * math.nan) if len(seen) == 2 else terms

    monkeypatch.setattr(models.dgcmm.DGCMM, "forward", poisoned)
    done = script("train", *TRAIN, f"--logdir={tmp_path}")
    assert done.status == 2
    assert "not finite (epoch 1, step 2, rank 0" in done.error
    model = seen[1].pop("model")
    assert all(torch.equal(value, seen[1][name]) for name, value in model.named_parameters())
    assert not (tmp_path / "checkpoint.pth").exists()


def test_signal_saves_within_a_step_and_the_run_goes_on(script, tmp_path):
    words = ["Digits_LT", *MODEL, "--batch-size=32", "--epochs=200", "--print-freq=1", f"--logdir={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-u", "train.py", *words],
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    ) as process:
        for line in process.stdout:
            if "epoch 1, step 3/" in line:
                break
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143, err
    stored = load_checkpoint(tmp_path / "checkpoint.pth")
    assert (stored["epoch"], stored["step"]) > (0, 2)
    done = script("train", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto", f"--epochs={stored['epoch'] + 1}")
    assert done.status == 0, done.err
    assert "continuing after epoch" in done.out


def test_gpu_that_is_not_there_is_named(cuda, script, tmp_path):
    number = torch.cuda.device_count()
    done = script("train", *TRAIN, f"--gpu={number}", f"--logdir={tmp_path / 'run'}")
    assert done.status == 2
    assert f"--gpu {number}: CUDA has {number} GPU(s)" in done.error
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    several = ["--multiprocessing-distributed", f"--ngpus={number + 1}", f"--batch-size={4 * (number + 1)}"]
    done = script("train", *TRAIN, *several, f"--logdir={tmp_path / 'run'}")
    assert done.status == 2
    assert f"CUDA has {number} GPU(s)" in done.error


def test_predictions_are_those_of_the_evaluation(script, tmp_path):
    """In the precision of the training, from a checkpoint that lies elsewhere."""
    flags = ["--amp=bf16", "--deterministic", f"--logdir={tmp_path / 'log'}"]
    assert script("train", *TRAIN, *flags).status == 0
    moved = shutil.move(tmp_path / "log" / "checkpoint.pth", tmp_path / "moved.pth")
    data = load_part("Digits_LT", "", train=False)
    for number, row in enumerate(data.rows[: 3 * 64]):  # --max-steps ends the evaluation there
        data.read(int(row)).save(tmp_path / f"{number:03d}.png")
    images = sorted(tmp_path.glob("*.png"))
    done = script("predict", moved, *images, "--batch-size=64", "--workers=2", f"--out={tmp_path / 'out.csv'}")
    assert done.status == 0, done.err
    for row, other in zip(
        read_rows(tmp_path / "out.csv"), read_rows(tmp_path / "log" / "predictions.csv"), strict=True
    ):
        found, expected = ([float(cells[f"p_{c}"]) for c in range(10)] for cells in (row, other))
        assert found == pytest.approx(expected, abs=1e-5)
    corrected = script("predict", moved, images[0], "--prior=uniform", f"--out={tmp_path / 'uniform.csv'}")
    assert corrected.status == 0, corrected.err
