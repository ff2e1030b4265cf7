"""What a user can get wrong: one line that names it, exit status 2, and nothing changed on disk."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL_MODEL
from mirror import Mirror

import datasets.chestxray_fetch
from utils.download import Patience

CHEST = ["ChestXray", "--dataset-manifest=TMP/closed.json"]  # of a mirror that nobody has switched on
DIGITS = ["Digits_LT", *SMALL_MODEL, "--epochs=1", "--max-steps=1", "--batch-size=16", "--quiet"]


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# script, flags (LOG is the run folder, RUN a finished run, TMP a folder for files), what the line says
CASES = {
    "no data set": ("train", [], "DIR"),
    "unknown data set": ("train", ["Digits"], "'Digits'"),
    "unknown flag": ("train", [*DIGITS, "--lrr=1"], "--lrr"),
    "unknown arch": ("train", [*DIGITS, "--arch=vgg"], "'vgg'"),
    "wrong h-dim": ("train", [*DIGITS, "--h-dim=2048"], "--h-dim 2048"),
    "unknown assignment": ("train", [*DIGITS, "--gmm-assign=code"], "'code'"),
    "unknown precision": ("train", [*DIGITS, "--amp=int8"], "'int8'"),
    "crop larger than resize": ("train", [*DIGITS, "--crop-size=64"], "--crop-size 64"),
    "cache smaller than resize": ("train", [*DIGITS, "--cache-size=31"], "--cache-size 31"),
    "cache of data in memory": ("train", [*DIGITS, "--cache-size=32"], "Digits_LT is held in memory"),
    "two schedules": ("train", [*DIGITS, "--lr-step=3", "--T-max=5"], "--lr-step and --T-max"),
    "step-size beside a schedule": ("train", [*DIGITS, "--step-size=3", "--T-max=5"], "--T-max and --step-size"),
    "no loss term": ("train", [*DIGITS, "--weight-cls=0", "--weight-reconst=0", "--weight-gmm=0"], "--weight-gmm"),
    "warm-up of nothing": ("train", [*DIGITS, "--weight-cls=0", "--warmup-epochs=1"], "--warmup-epochs"),
    "threshold without warm-up": ("train", [*DIGITS, "--warmup-threshold=1"], "--warmup-threshold"),
    "start after the end": ("train", [*DIGITS, "--start-epoch=1"], "--start-epoch 1"),
    "no step possible": ("train", [*DIGITS, "--batch-size=1"], "no training step"),
    "missing chest folder": ("train", [*CHEST, "--datadir=TMP/none"], "into TMP/none by hand"),
    "empty chest folder": ("train", [*CHEST, "--datadir=TMP"], "put Data_Entry_2017.csv, train_val_list.txt"),
    "missing manifest": ("train", ["ChestXray", "--dataset-manifest=TMP/none.json"], "TMP/none.json"),
    "manifest of something else": ("train", ["ChestXray", "--dataset-manifest=TMP/image.pth"], "TMP/image.pth is not"),
    "missing fashion folder": ("train", ["FashionMNIST_LT", "--datadir=TMP/none"], "TMP/none does not exist"),
    "evaluate nothing": ("train", [*DIGITS, "--evaluate"], "--resume"),
    "evaluate a missing run": ("train", [*DIGITS, "--evaluate", "--resume=auto"], "checkpoint.pth"),
    "missing checkpoint": ("train", [*DIGITS, "--resume=TMP/none.pth"], "TMP/none.pth"),
    "checkpoint is a folder": ("train", [*DIGITS, "--resume=TMP"], "TMP"),
    "empty checkpoint": ("train", [*DIGITS, "--resume=TMP/empty.pth"], "TMP/empty.pth"),
    "image for a checkpoint": ("train", [*DIGITS, "--resume=TMP/image.pth"], "TMP/image.pth"),
    "foreign checkpoint": ("train", [*DIGITS, "--resume=TMP/foreign.pth"], "TMP/foreign.pth"),
    "codes for a checkpoint": ("augment", [*DIGITS, "--resume=TMP/codes.pth"], "no weights"),
    "damaged checkpoint": ("train", [*DIGITS, "--resume=TMP/damaged.pth"], "TMP/damaged.pth"),
    "another architecture": ("train", [*DIGITS, "--resume=RUN", "--arch=resnet34_vae3"], "--arch is resnet34_vae3"),
    "another data set": ("train", ["FashionMNIST_LT", "--evaluate", "--resume=RUN"], "Digits_LT"),
    "another code length": ("train", [*DIGITS, "--evaluate", "--resume=RUN", "--z-dim=33"], "--z-dim is 33"),
    "another learning rate": ("train", ["Digits_LT", "--resume=RUN", "--lr=0.5"], "--lr is 0.5"),
    "another subset": ("train", [*DIGITS, "--resume=RUN", "--subset-seed=1"], "--subset-seed is 1"),
    "another hold-out": ("train", [*DIGITS, "--resume=RUN", "--val-fraction=0.3"], "--val-fraction is 0.3"),
    "generative where it is not": ("train", [*DIGITS, "--evaluate", "--resume=RUN", "--generative"], "--generative"),
    "augment without a model": ("augment", DIGITS, "--resume"),
    "augment_ftl without a model": ("augment_ftl", DIGITS, "--resume"),
    "augment a missing model": ("augment", [*DIGITS, "--resume=auto"], "checkpoint.pth"),
    "augment another data set": ("augment", ["ChestXray", "--resume=RUN"], "Digits_LT"),
    "augment another architecture": (
        "augment",
        [*DIGITS, "--resume=RUN", "--arch=resnet_vae3"],
        "--arch is resnet_vae3",
    ),
    "rank beyond the code": ("augment_ftl", ["Digits_LT", "--resume=RUN", "--ftl-rank=33"], "--ftl-rank 33"),
    "unknown rep-method": ("augment_ftl", [*DIGITS, "--resume=RUN", "--rep-method=3"], "'3'"),
    "run folder is a file": ("train", [*DIGITS, "--logdir=TMP/image.pth"], "TMP/image.pth"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_changes_nothing(name, script, tmp_path, trained_digits, monkeypatch):
    which, argv, expected = CASES[name]
    log, files = tmp_path / "log", tmp_path / "files"
    files.mkdir()
    (files / "empty.pth").touch()
    (files / "image.pth").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    torch.save({"model": torch.zeros(3)}, files / "foreign.pth")
    names = ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt", "images_001.zip")
    Mirror(dict.fromkeys(names, b"content")).manifest(files / "closed.json")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.chestxray_fetch, "PATIENCE", Patience(pause_s=0.001))
    content = bytearray((trained_digits / "checkpoint.pth").read_bytes())
    content[len(content) // 2] ^= 4
    (files / "damaged.pth").write_bytes(content)
    if "codes" in name:
        from utils.checkpoint import save_checkpoint

        save_checkpoint(files / "codes.pth", {"key": 1})
    run = trained_digits / "checkpoint.pth"
    before = snapshot(tmp_path)
    words = [word.replace("TMP", str(files)).replace("RUN", str(run)) for word in argv]
    if not any(word.startswith("--logdir") for word in words):
        words.append(f"--logdir={log}")
    done = script(which, *words)
    assert done.status == 2, done.err
    assert expected.replace("TMP", str(files)) in done.error
    assert not done.out or "ChestXray" in argv  # which says what it is about to download
    after = snapshot(tmp_path)
    assert {path: content for path, content in after.items() if path.name != ".lock"} == before


def test_gpu_that_cuda_does_not_have(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = script("train", *DIGITS, "--gpu=2", f"--logdir={tmp_path / 'log'}")
    assert done.status == 2
    assert "--gpu 2: CUDA has 2 GPU(s)" in done.error
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("left", ["metrics.csv", "checkpoint.pth"])
def test_run_folder_that_holds_a_run(left, script, tmp_path):
    (tmp_path / left).write_text("precious")
    done = script("train", *DIGITS, f"--logdir={tmp_path}")
    assert done.status == 2
    assert "holds a run" in done.error
    assert [path.name for path in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_text() == "precious"


def test_overwrite_and_resume_of_the_same_run(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    before = snapshot(tmp_path)
    done = script("train", *DIGITS, f"--logdir={tmp_path}", "--resume=auto", "--overwrite")
    assert done.status == 2
    assert "--overwrite" in done.error
    assert snapshot(tmp_path) == before


def test_folder_of_a_process_at_work(script, tmp_path, lock_elsewhere):
    lock_elsewhere(tmp_path / ".lock")
    done = script("train", *DIGITS, f"--logdir={tmp_path}")
    assert done.status == 2
    assert "another process" in done.error


def test_class_without_training_images(script, tmp_path, chest_folder):
    folder = tmp_path / "data"
    shutil.copytree(chest_folder, folder)
    hernia = {
        line.split(",")[0] for line in (folder / "Data_Entry_2017.csv").read_text().splitlines() if "Hernia" in line
    }
    names = (folder / "train_val_list.txt").read_text().split()
    (folder / "train_val_list.txt").write_text("\n".join(name for name in names if name not in hernia))
    done = script("train", "ChestXray", *SMALL_MODEL, f"--datadir={folder}", f"--logdir={tmp_path / 'log'}")
    assert done.status == 2
    assert "Hernia" in done.error


def test_damaged_image_is_named(script, tmp_path, chest_folder):
    folder = tmp_path / "data"
    shutil.copytree(chest_folder, folder)
    name = (folder / "train_val_list.txt").read_text().split()[7]
    damaged = folder / "images" / name
    damaged.write_bytes(damaged.read_bytes()[:300])
    flags = [f"--datadir={folder}", f"--logdir={tmp_path / 'log'}", "--epochs=1", "--workers=1"]
    done = script("train", "ChestXray", *SMALL_MODEL, *flags)
    assert done.status == 2
    assert name in done.error


def test_loss_that_is_not_finite_stops_before_a_weight_changes(script, tmp_path, monkeypatch):
    import models.dgcmm

    forward = models.dgcmm.DGCMM.forward
    calls, weights = [], []

    def poisoned(self, *args):
        calls.append(1)
        terms = forward(self, *args)
        if len(calls) == 2:
            weights.append((self, {name: value.clone() for name, value in self.named_parameters()}))
            return terms._replace(total=terms.total * np.nan)
        return terms

    monkeypatch.setattr(models.dgcmm.DGCMM, "forward", poisoned)
    done = script("train", "Digits_LT", *SMALL_MODEL, "--batch-size=16", "--epochs=1", f"--logdir={tmp_path}")
    assert done.status == 2
    assert "epoch 1, step 2" in done.error
    model, before = weights[0]
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert not (tmp_path / "checkpoint.pth").exists()
