"""What a user can get wrong: one line that names it, exit status 2, and nothing changed on disk."""

import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

import datasets.chestxray.fetch
import models.dgcmm
from datasets.download.remote import Patience
from helpers.limits import limit_files
from helpers.mirror import Mirror
from helpers.project import ROOT, SMALL_MODEL
from utils.training.checkpoint import load_checkpoint, save_checkpoint

CHEST = ["ChestXray", "--dataset-manifest=TMP/closed.json"]  # of a mirror that nobody has switched on
MP = "--multiprocessing-distributed"
DIGITS = ["Digits_LT", *SMALL_MODEL, "--epochs=1", "--max-steps=1", "--batch-size=16", "--quiet"]


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# script, flags (RUN is a finished run, TMP a folder for files), what the line says
CASES = {
    "no data set": ("train", [], "DIR"),
    "unknown data set": ("train", ["Digits"], "'Digits'"),
    "unknown flag": ("train", [*DIGITS, "--lrr=1"], "--lrr"),
    "flag of the old launcher": ("train", [*DIGITS, "--local-rank=0"], "start with torchrun"),
    "flag of an older launcher": ("augment", [*DIGITS, "--resume=RUN", "--local_rank=0"], "start with torchrun"),
    "unknown arch": ("train", [*DIGITS, "--arch=vgg"], "'vgg'"),
    "wrong h-dim": ("train", [*DIGITS, "--h-dim=2048"], "--h-dim 2048"),
    "unknown assignment": ("train", [*DIGITS, "--gmm-assign=code"], "'code'"),
    "unknown precision": ("train", [*DIGITS, "--amp=int8"], "'int8'"),
    "crop larger than resize": ("train", [*DIGITS, "--crop-size=64"], "--crop-size 64"),
    "cache smaller than resize": ("train", [*DIGITS, "--cache-size=31"], "--cache-size 31"),
    "cache of data in memory": ("train", [*DIGITS, "--cache-size=32"], "Digits_LT is held in memory"),
    "two schedules": ("train", [*DIGITS, "--lr-step=3", "--T-max=5"], "--lr-step and --T-max"),
    "factor of no step": ("train", [*DIGITS, "--gamma=0.5", "--T-max=5"], "--gamma is the factor of a step"),
    "step-size beside a schedule": ("train", [*DIGITS, "--step-size=3", "--T-max=5"], "--T-max and --step-size"),
    "no loss term": ("train", [*DIGITS, "--weight-cls=0", "--weight-reconst=0", "--weight-gmm=0"], "--weight-gmm"),
    "warm-up of nothing": ("train", [*DIGITS, "--weight-cls=0", "--warmup-epochs=1"], "--warmup-epochs"),
    "unknown loss": ("train", [*DIGITS, "--loss=hinge"], "'hinge'"),
    "loss of weight 0": ("train", [*DIGITS, "--weight-cls=0", "--loss=focal"], "--loss focal"),
    "plain classifier with a code": ("train", [*DIGITS, "--arch=resnet18"], "--z-dim: resnet18 is a plain classifier"),
    "threshold without warm-up": ("train", [*DIGITS, "--warmup-threshold=1"], "--warmup-threshold"),
    "start after the end": ("train", [*DIGITS, "--start-epoch=1"], "--start-epoch 1"),
    "no step possible": ("train", [*DIGITS, "--batch-size=1"], "--batch-size 1 is too small for a training step"),
    "missing chest folder": ("train", [*CHEST, "--datadir=TMP/none"], "into TMP/none by hand"),
    "mistyped chest folder": ("train", [*CHEST, "--datadir=TMP/none/none"], "does not exist, nor does TMP/none"),
    "empty chest folder": ("train", [*CHEST, "--datadir=TMP"], "put Data_Entry_2017.csv, train_val_list.txt"),
    "missing manifest": ("train", ["ChestXray", "--dataset-manifest=TMP/none.json"], "TMP/none.json"),
    "manifest of something else": ("train", ["ChestXray", "--dataset-manifest=TMP/image.pth"], "TMP/image.pth is not"),
    "missing fashion folder": ("train", ["FashionMNIST_LT", "--datadir=TMP/none"], "TMP/none does not exist"),
    "evaluate nothing": ("train", [*DIGITS, "--evaluate"], "--resume"),
    "evaluate a missing run": ("train", [*DIGITS, "--evaluate", "--resume=auto"], "checkpoint.pth"),
    "missing checkpoint": ("train", [*DIGITS, "--resume=TMP/none.pth"], "TMP/none.pth"),
    "checkpoint is a folder": ("train", ["Digits_LT", "--resume=TMP"], "TMP is a folder: name a checkpoint in it"),
    "empty checkpoint": ("train", [*DIGITS, "--resume=TMP/empty.pth"], "TMP/empty.pth"),
    "image for a checkpoint": ("train", [*DIGITS, "--resume=TMP/image.pth"], "TMP/image.pth"),
    "foreign checkpoint": ("train", [*DIGITS, "--resume=TMP/foreign.pth"], "TMP/foreign.pth"),
    "codes for a checkpoint": ("augment", [*DIGITS, "--resume=TMP/codes.pth"], "no weights"),
    "damaged checkpoint": ("train", ["Digits_LT", "--resume=TMP/damaged.pth"], "TMP/damaged.pth is damaged (its SHA"),
    "another architecture": ("train", [*DIGITS, "--resume=RUN", "--arch=resnet34_vae3"], "--arch is resnet34_vae3"),
    "another data set": ("train", ["FashionMNIST_LT", "--evaluate", "--resume=RUN"], "Digits_LT"),
    "another code length": ("train", [*DIGITS, "--evaluate", "--resume=RUN", "--z-dim=33"], "--z-dim is 33"),
    "another learning rate": ("train", ["Digits_LT", "--resume=RUN", "--lr=0.5"], "--lr is 0.5"),
    "another subset": ("train", [*DIGITS, "--resume=RUN", "--subset-seed=1"], "--subset-seed is 1"),
    "another hold-out": ("train", [*DIGITS, "--resume=RUN", "--val-fraction=0.3"], "--val-fraction is 0.3"),
    "another validation set": ("train", [*DIGITS, "--resume=RUN", "--val-per-class=3"], "--val-per-class is 3"),
    "generative where it is not": ("train", [*DIGITS, "--evaluate", "--resume=RUN", "--generative"], "--generative"),
    "augment without a model": ("augment", DIGITS, "--resume"),
    "augment_ftl without a model": ("augment_ftl", DIGITS, "--resume"),
    "augment a missing model": ("augment", [*DIGITS, "--resume=auto"], "holds no training: run train.py first"),
    "augment a damaged model": ("augment", [*DIGITS, "--resume=TMP/damaged.pth"], "use an older copy"),
    "augment another data set": ("augment", ["ChestXray", "--resume=RUN"], "Digits_LT"),
    "augment another architecture": (
        "augment",
        [*DIGITS, "--resume=RUN", "--arch=resnet_vae3"],
        "--arch is resnet_vae3",
    ),
    "unknown rep-method": ("augment_ftl", [*DIGITS, "--resume=RUN", "--rep-method=3"], "'3'"),
    "run folder is a file": ("train", [*DIGITS, "--logdir=TMP/image.pth"], "TMP/image.pth"),
    "run folder in a file": ("train", [*DIGITS, "--logdir=TMP/image.pth/run"], "TMP/image.pth/run"),
    "run folder where nobody may write": ("train", [*DIGITS, "--logdir=/proc/run"], "--logdir /proc/run"),
    "rate of nothing": ("train", [*DIGITS, "--lr=0"], "--lr"),
    "rate that is no number": ("augment", [*DIGITS, "--resume=RUN", "--lr=nan"], "--lr"),
    "milestones that fall": ("train", [*DIGITS, "--milestones=30,20"], "[30, 20] do not rise"),
    "no epoch": ("train", [*DIGITS, "--epochs=0"], "--epochs"),
    "rank of no dimension": ("augment_ftl", [*DIGITS, "--resume=RUN", "--ftl-rank=0"], "--ftl-rank"),
    "hold-out of all": ("train", [*DIGITS, "--val-fraction=1"], "--val-fraction"),
    "manifest for data that needs none": (
        "train",
        [*DIGITS, "--dataset-manifest=TMP/closed.json"],
        "--dataset-manifest: Digits_LT has no list",
    ),
    "fashion files that are none": ("train", ["FashionMNIST_LT", "--datadir=TMP/fashion"], "train-images-idx3-ubyte"),
    "rank without a world": ("train", [*DIGITS, "--rank=1"], "--rank 1"),
    "world without a rank": ("train", [*DIGITS, "--world-size=2", "--dist-url=tcp://127.0.0.1:1"], "--rank"),
    "nodes without an address": ("train", [*DIGITS, "--world-size=2", "--rank=0", MP], "--dist-url"),
    "address without a port": ("train", [*DIGITS, "--dist-url=tcp://127.0.0.1"], "--dist-url tcp://127.0.0.1"),
    "address of another kind": ("train", [*DIGITS, "--dist-url=file:///tmp/x"], "--dist-url file:///tmp/x"),
    "environment without a launcher": ("train", [*DIGITS, "--dist-url=env://"], "WORLD_SIZE"),
    "unknown backend": ("train", [*DIGITS, "--dist-backend=mpi"], "'mpi'"),
    "GPUs without processes": ("train", [*DIGITS, "--ngpus=2"], "--ngpus 2"),
    "batch that cannot be shared": ("train", [*DIGITS, "--ngpus=3", MP], "--batch-size 16"),
    "batch that cannot be paired": (
        "train",
        [*DIGITS, "--mixup=1", "--ngpus=4", "--batch-size=12", MP],
        "multiple of 8",
    ),
    "a variable that is not set": ("train", [*DIGITS, "--resume="], "--resume: the path is empty"),
    "name that is too long": ("train", [*DIGITS, "--resume=" + 300 * "x"], "there is no file"),
    "number beyond all floats": ("train", [*DIGITS, "--epochs=1" + 320 * "0"], "is out of range"),
    "text for a checkpoint": ("train", ["Digits_LT", "--resume=TMP/text.pth"], "TMP/text.pth cannot be loaded"),
    "cosine that would rise": ("train", [*DIGITS, "--T-max=3", "--lr=1e-6"], "--lr 1e-06 is below 1e-05"),
    "one GPU for two processes": ("train", [*DIGITS, "--ngpus=2", MP, "--gpu=0"], "--gpu 0"),
    "train on an augmentation": ("train", ["Digits_LT", "--resume=TMP/aug.pth"], "comes from an augmentation"),
    "augment an augmentation": ("augment", ["Digits_LT", "--resume=TMP/aug.pth"], "comes from an augmentation"),
    "checkpoint of another version": ("train", ["Digits_LT", "--resume=TMP/format.pth"], "another version"),
    "checkpoint of other images": (
        "train",
        ["Digits_LT", "--epochs=3", "--resume=TMP/data.pth"],
        "images are not those of",
    ),
    "augment with other images": ("augment", ["Digits_LT", "--resume=TMP/data.pth"], "images are not those of"),
    "checkpoint that lacks a weight": (
        "train",
        ["Digits_LT", "--epochs=3", "--resume=TMP/weights.pth"],
        "does not fit the model",
    ),
    "checkpoint without its best epoch": (
        "train",
        ["Digits_LT", "--epochs=3", "--resume=TMP/best.pth"],
        "model_best.pth",
    ),
    "another batch size": ("train", ["Digits_LT", "--resume=RUN", "--batch-size=32"], "--batch-size is 32"),
    "another schedule": ("train", ["Digits_LT", "--resume=RUN", "--T-max=9"], "--T-max is 9"),
    "a second schedule": ("train", ["Digits_LT", "--resume=RUN", "--lr-step=9"], "--lr-step is 9"),
    "another loss": ("train", ["Digits_LT", "--resume=RUN", "--loss=focal"], "--loss is focal"),
    "another sampler": ("train", ["Digits_LT", "--resume=RUN", "--sampler=sqrt"], "--sampler is sqrt"),
    "start from nothing": ("train", [*DIGITS, "--init=TMP/none.pth"], "there is no file"),
    "start from a damaged file": ("train", [*DIGITS, "--init=TMP/damaged.pth"], "TMP/damaged.pth"),
    "start from another encoder": (
        "train",
        [*DIGITS, "--init=RUN", "--arch=resnet34_vae3"],
        "has the encoder of resnet32_vae3, not of resnet34_vae3",
    ),
    "table of predictions in the run folder": ("train", [*DIGITS, "--logdir=TMP/own"], "predictions.csv is of no run"),
    "table of predictions where a run goes on": (
        "train",
        ["Digits_LT", "--resume=RUN", "--logdir=TMP/own", "--epochs=3"],
        "predictions.csv is of no run",
    ),
    "table of predictions where an evaluation writes": (
        "train",
        ["Digits_LT", "--evaluate", "--resume=RUN", "--logdir=TMP/own"],
        "predictions_eval.csv is of no run",
    ),
    "table of predictions where a re-training writes": (
        "augment",
        ["Digits_LT", "--resume=RUN", "--logdir=TMP/own"],
        "predictions_aug.csv is of no run",
    ),
    "two starts": ("train", [*DIGITS, "--init=RUN", "--resume=RUN"], "--init starts a run"),
    "another start": ("train", ["Digits_LT", "--resume=RUN", "--freeze-encoder"], "--freeze-encoder is True"),
    "other epochs to measure": ("train", ["Digits_LT", "--resume=RUN", "--eval-every=2"], "--eval-every is 2"),
    "another mixup": ("train", ["Digits_LT", "--resume=RUN", "--mixup=1"], "--mixup is 1.0"),
    "another momentum": ("train", ["Digits_LT", "--resume=RUN", "--momentum=0.5"], "--momentum is 0.5"),
    "another seed": ("train", ["Digits_LT", "--resume=RUN", "--seed=5"], "--seed is 5"),
    "another precision": ("train", ["Digits_LT", "--resume=RUN", "--amp=bf16"], "--amp is bf16"),
    "another size": ("augment", ["Digits_LT", "--resume=RUN", "--new-size=40"], "--new-size is 40"),
}


def test_host_that_is_nowhere(script, tmp_path, monkeypatch):
    """No name server is asked: some answer every name."""

    def nobody(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    words = [MP, "--ngpus=2", "--world-size=2", "--rank=0", "--dist-url=tcp://no-such-host.invalid:4000"]
    done = script("train", *DIGITS, *words, f"--logdir={tmp_path / 'new'}")
    assert done.status == 2
    assert "there is no host no-such-host.invalid" in done.error
    assert not (tmp_path / "new").exists()


def write_odd_checkpoints(folder, run):
    """Checkpoints that are whole and yet not what a command can use."""
    good = load_checkpoint(run)
    weights = dict(list(good["state_dict"].items())[1:])
    changes = {
        "aug": {"kind": "aug"},
        "format": {"format": 1},
        "data": {"data_sha256": {"train": "0", "test": "0"}},
        "weights": {"state_dict": weights},
        "best": {"best": {"epoch": 1, "acsa": 0.5}},
    }
    for name, change in changes.items():
        save_checkpoint(folder / f"{name}.pth", good | change)
    save_checkpoint(folder / "codes.pth", {"key": 1})


@pytest.fixture(scope="module")
def odd_checkpoints(tmp_path_factory, trained_digits):
    folder = tmp_path_factory.mktemp("odd")
    write_odd_checkpoints(folder, trained_digits / "checkpoint.pth")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_changes_nothing(
    name, script, tmp_path, trained_digits, odd_checkpoints, monkeypatch
):
    which, argv, expected = CASES[name]
    log, files = tmp_path / "log", tmp_path / "files"
    files.mkdir()
    (files / "empty.pth").touch()
    (files / "text.pth").write_text(".\n")
    (files / "image.pth").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    torch.save({"model": torch.zeros(3)}, files / "foreign.pth")
    names = ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt", "images_001.zip")
    Mirror(dict.fromkeys(names, b"content")).manifest(files / "closed.json")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.chestxray.fetch, "PATIENCE", Patience(pause_s=0.001))
    monkeypatch.setattr("utils.distributed.launch.spawn", lambda *_: pytest.fail("processes were started"))
    if "damaged" in "".join(argv):
        content = bytearray((trained_digits / "checkpoint.pth").read_bytes())
        content[len(content) // 2] ^= 4
        (files / "damaged.pth").write_bytes(content)
    for odd in odd_checkpoints.iterdir():
        if f"TMP/{odd.name}" in "".join(argv):
            shutil.copyfile(odd, files / odd.name)
    (files / "own").mkdir()
    for suffix in ("", "_eval", "_aug"):
        (files / "own" / f"predictions{suffix}.csv").write_text("file,prediction\n")
    (files / "fashion").mkdir()
    (files / "fashion" / "train-images-idx3-ubyte").write_bytes(b"none")
    run = trained_digits / "checkpoint.pth"
    before, own = snapshot(tmp_path), times(trained_digits)
    words = [word.replace("TMP", str(files)).replace("RUN", str(run)) for word in argv]
    if not any(word.startswith("--logdir") for word in words):
        words.append(f"--logdir={log}")
    done = script(which, *words)
    assert done.status == 2, done.err
    assert expected.replace("TMP", str(files)) in done.error
    others = [line for line in done.err.splitlines() if line != done.error]
    assert all(line.startswith("warning: ") for line in others), done.err
    assert not done.out or "ChestXray" in argv  # which says what it is about to download
    after = snapshot(tmp_path)
    assert {path: content for path, content in after.items() if path.name != ".lock"} == before
    assert times(trained_digits) == own


def test_gpu_that_cuda_does_not_have(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = script("train", *DIGITS, "--gpu=2", f"--logdir={tmp_path / 'log'}")
    assert done.status == 2
    assert "--gpu 2: CUDA has 2 GPU(s)" in done.error
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("left", ["metrics.csv", "checkpoint.pth", "checkpoint_prev.pth"])
def test_run_folder_that_holds_a_run(left, script, tmp_path):
    (tmp_path / left).write_text("precious")
    done = script("train", *DIGITS, f"--logdir={tmp_path}")
    assert done.status == 2
    assert "holds a run" in done.error
    assert [path.name for path in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_text() == "precious"


def test_re_training_whose_checkpoint_is_gone_is_not_replaced(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    (tmp_path / "metrics_aug.csv").write_text("precious")
    before = snapshot(tmp_path)
    done = script("augment", "Digits_LT", f"--logdir={tmp_path}", "--resume=auto", "--epochs=1", "--workers=0")
    assert done.status == 2
    assert "holds a re-training whose checkpoint_aug.pth is gone: --overwrite it" in done.error
    assert snapshot(tmp_path) == before


def test_overwrite_and_resume_of_the_same_run(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    before = snapshot(tmp_path)
    done = script("train", *DIGITS, f"--logdir={tmp_path}", "--resume=auto", "--overwrite")
    assert done.status == 2
    assert "--overwrite" in done.error
    assert snapshot(tmp_path) == before


def test_full_disk_keeps_the_run_and_a_continuation_ends_it(script, tmp_path, trained_digits):
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "checkpoint.pth").read_bytes()
    argv = ["Digits_LT", "--epochs=3", f"--logdir={tmp_path}", "--resume=auto", "--workers=0"]
    done = subprocess.run(
        [sys.executable, "train.py", *argv],
        **{"cwd": ROOT, "capture_output": True, "text": True},
        preexec_fn=lambda: limit_files(len(before) // 2),
    )
    assert done.returncode == 2
    assert "checkpoint.pth cannot be written" in done.stderr.splitlines()[-1]
    assert (tmp_path / "checkpoint.pth").read_bytes() == before
    assert script("train", *argv).result["epoch"] == 3


def test_folder_of_a_process_at_work(script, tmp_path, lock_elsewhere):
    lock_elsewhere(tmp_path / ".lock")
    done = script("train", *DIGITS, f"--logdir={tmp_path}")
    assert done.status == 2
    assert "another process" in done.error


def test_augmentation_is_for_one_of_the_processes_that_torchrun_started(script, tmp_path, trained_digits, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = script("augment", "Digits_LT", f"--resume={trained_digits}/checkpoint.pth", f"--logdir={tmp_path / 'log'}")
    assert (done.status, done.out) == (0, "")
    assert done.err == "warning: rank 1 has nothing to do: re-training is for one process, rank 0\n"
    assert not (tmp_path / "log").exists()


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
