"""Every documented command parses, and runs on small data; what a run leaves behind."""

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import datasets.dummy
import train
from datasets import DATASETS
from helpers import ranks
from helpers.data import load_part
from helpers.documents import DOCUMENTS, TRAINING, commands, program, replaced
from helpers.ports import free_port
from helpers.project import METRIC_NAMES, ROOT, SMALL_MODEL
from helpers.stand_ins import stand_in
from utils.cli.rules import check_start, parse
from utils.files import read_rows
from utils.training.checkpoint import load_checkpoint

RECIPES = sorted(p.name for p in (ROOT / "scripts").glob("*.sh") if ". scripts/recipe.sh" in p.read_text())
FASHION = ("fashion_mnist_lt.sh", "fashion_mnist_held_out.sh")


ALL = [(document, words) for document in DOCUMENTS for words in commands(document)]
WITHOUT_FLAGS = ("scripts.soak", "scripts.soak_download")  # they take numbers


def test_documents_hold_commands():
    assert {document for document, _ in ALL} >= {
        *("README.md", "docs/baselines.md", "docs/datasets.md", "docs/distributed.md"),
        *("train.py", "scripts/chestxray.sh", "scripts/quickstart.sh", "scripts/soak.sh", "scripts/soak_download.sh"),
    }
    assert [words[0] for words in commands("README.md")][:3] == ["train", "augment", "train"]


@pytest.mark.parametrize(("document", "words"), ALL, ids=[f"{d}:{w[0]}:{i}" for i, (d, w) in enumerate(ALL)])
def test_documented_command_parses(document, words):
    name, *argv = words
    module = importlib.import_module(program(name).removesuffix(".py").replace("/", "."))
    if name in WITHOUT_FLAGS:
        assert not any(word.startswith("-") for word in argv)
        return
    if name not in TRAINING:
        module.build_parser().parse_args(argv)
        return
    args, given = parse(module.build_parser(), argv)
    assert args.dataset in DATASETS
    if name == "train" and (not args.resume or (args.resume == "auto" and "arch" in given)):  # the start of a run
        check_start(args)
        train.complete_and_check(args, given, args.ngpus or 1)


def python_calls(folder: Path, name: str, *words: str, **environ: str) -> list[list[str]]:
    """List what a shell script gives to Python, as bash makes it of its variables; a stand-in writes it down."""
    told = folder / "told"
    stand_in(folder / "python", f'printf "%s\\0" "$@" >>{told}; printf "\\n" >>{told}')
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **environ}
    subprocess.run(["bash", ROOT / "scripts" / name, *words], env=environment, check=True)
    return [line.split("\0")[:-1] for line in told.read_text().splitlines()]


def parsed(call: list[str]) -> tuple[argparse.Namespace, set[str]]:
    """Parse a call of one of the three scripts that train."""
    script, *argv = call
    return parse(importlib.import_module(script.removesuffix(".py")).build_parser(), argv)


@pytest.mark.parametrize(
    ("words", "folder", "overwrites"), [([], "./logs/quickstart", True), (["./my"], "./my", False)]
)
def test_quick_start_overwrites_its_own_folder_alone(words, folder, overwrites, tmp_path):
    calls = [call for call in python_calls(tmp_path, "quickstart.sh", *words, VIRTUAL_ENV="there") if call[0] != "-c"]
    assert [call[0] for call in calls] == ["-m", "train.py", "augment_ftl.py", "augment.py", "scripts/compare.py"]
    for call in calls[1:4]:
        args, _ = parsed(call)
        assert (args.logdir, args.overwrite) == (folder, overwrites)
    assert calls[4][1:] == [folder]


@pytest.mark.parametrize("name", [*RECIPES, "chestxray.sh"])
def test_recipe_trains_and_re_trains_by_commands_that_parse(name, tmp_path):
    words = ["./data", "./runs", "--print-freq=7"] if name in RECIPES else ["--print-freq=7"]
    given = python_calls(tmp_path, name, *words, SEEDS="3", INIT="imagenet.pth", GPUS="4")
    assert [words[0] for words in given][:3] == ["train.py", "augment_ftl.py", "augment.py"]
    every = [parsed(call) for call in given[:3]]
    (training, stated), *retrainings = every
    check_start(training)
    train.complete_and_check(training, stated, 1)
    assert training.resume == "auto"
    assert len({(args.dataset, args.logdir) for args, _ in every}) == 1
    assert not any(args.overwrite for args, _ in every)
    assert [args.print_freq for args, _ in every] == [7, 100, 100]  # the user's flags are for the training
    as_published = name in ("chestxray.sh", "fashion_mnist_three_subsets.sh")
    start = ("trained", 1e-2) if as_published else ("adjusted", 1e-3)
    assert [(args.start, args.lr) for args, _ in retrainings] == [start, start]
    if name == "fashion_mnist_three_subsets.sh":
        assert (training.lr, training.weight_reconst) == (5e-3, 0.1)
    if name == "chestxray.sh":
        assert (training.init, training.pretrained) == ("imagenet.pth", False)
    if "GPUS" in (ROOT / "scripts" / name).read_text():
        assert training.ngpus == 4
    if name in RECIPES:
        assert given[3] == ["scripts/compare.py", "./runs/subset3"]
    else:
        (row,) = given[3:]  # of the README's table, which has these columns
        assert row == [
            "scripts/compare.py",
            "--markdown",
            "--metrics=acsa,f_ma,g_ma,many,median",
            "./logs/ChestXray/TAG",
        ]


def test_held_out_comparison_trains_and_re_trains_six_variants_by_commands_that_parse(tmp_path):
    script = "fashion_mnist_held_out.sh"
    for name in re.findall(r"^run_one (\S+)", (ROOT / "scripts" / script).read_text(), re.MULTILINE):
        (tmp_path / name).mkdir()
        for metrics in ("metrics.csv", "metrics_aug.csv"):
            (tmp_path / name / metrics).write_text("8,val,0.9,0.8\n")
    calls = python_calls(tmp_path, script, "./data", str(tmp_path))
    assert [name for name, *_ in calls] == ["train.py", "augment.py"] * 6
    folders, variants = set(), set()
    for training, retraining in zip(calls[::2], calls[1::2], strict=True):
        args, given = parsed(training)
        train.complete_and_check(args, given, 1)
        again, _ = parsed(retraining)
        assert (again.datadir, again.logdir) == (args.datadir, args.logdir)
        folders.add(args.logdir)
        variants.add((args.generative, args.gmm_assign, args.weight_gmm))
    assert len(folders) == len(variants) == 6


def run_without_python(folder: Path, name: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script from another folder; a stand-in for Python says that it ran."""
    stand_in(folder / "python", "echo ran")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **environ}
    command = ["bash", ROOT / "scripts" / name, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "words", "environment", "says"),
    [
        ("mnist_lt.sh", ["--epochs=1"], {}, "error: --epochs=1 stands where a folder should: flags come after"),
        ("mnist_lt.sh", ["./data", "--epochs=1"], {}, "error: --epochs=1 stands where a folder should"),
        ("mnist_lt.sh", ["./data", "./runs"], {"START": "ajusted"}, "error: START is adjusted or trained, not ajusted"),
        ("mnist_lt.sh", ["./data", "./runs", "--loss=ldam-drw"], {}, "error: --loss=ldam-drw leaves no bias to adjust"),
        ("mnist_lt.sh", ["./data", "./runs", "--loss", "ldam-drw", "--wd=0"], {}, "error: --loss=ldam-drw leaves no"),
        ("quickstart.sh", ["--quiet"], {"VIRTUAL_ENV": "there"}, "error: --quiet stands where a folder should"),
        ("fashion_mnist_lt.sh", ["./data", "--list"], {}, "error: --list stands where a folder should"),
        ("fashion_mnist_held_out.sh", ["-v"], {}, "error: -v stands where a folder should"),
        ("fashion_mnist_held_out.sh", ["./data", "./my", "runs"], {}, "error: runs: too many words, -h says"),
        ("quickstart.sh", ["./my", "run"], {"VIRTUAL_ENV": "there"}, "error: run: too many words, -h says which"),
    ],
)
def test_script_refuses_what_it_would_misunderstand(name, words, environment, says, tmp_path):
    done = run_without_python(tmp_path, name, *words, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)


@pytest.mark.parametrize("name", [*RECIPES, "chestxray.sh", "quickstart.sh", *FASHION])
@pytest.mark.parametrize("words", [["-h"], ["./data", "./runs", "--help"]])
def test_script_that_is_asked_for_help_prints_its_head(name, words, tmp_path):
    done = run_without_python(tmp_path, name, *words, VIRTUAL_ENV="there")
    head = (ROOT / "scripts" / name).read_text().split("\nset -")[0].splitlines()[1:]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in head]
    assert f"./scripts/{name} [" in done.stdout


WORK = """
import os, signal, sys, time
told = []
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(signum, lambda signum, _frame: told.append(signal.Signals(signum).name))
open("begun", "w").close()
while not told:
    time.sleep(0.01)
end = time.monotonic() + 30
while "SIGUSR1" not in told and time.monotonic() < end:  # from the script
    time.sleep(0.01)
time.sleep(0.1)  # a training saves itself
open("saved", "w").write(" ".join(told))
os._exit(7)
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
@pytest.mark.parametrize("to_all", [False, True], ids=["the script alone", "its whole group"])
def test_signal_to_a_script_ends_its_command_first(name, to_all, tmp_path):
    """And only once: a second SIGTERM or Ctrl-C would end it before it has saved itself."""
    (tmp_path / "work.py").write_text(WORK)
    script = f'set -e; . "{ROOT}/scripts/commands.sh"; run "{sys.executable}" work.py; touch after'
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    signum = signal.Signals[f"SIG{name}"]
    (os.killpg if to_all else os.kill)(process.pid, signum)
    assert process.wait(60) == 128 + signum
    assert {path.name for path in tmp_path.iterdir()} == {"work.py", "begun", "saved"}
    told = (tmp_path / "saved").read_text().split()
    assert set(told) == ({f"SIG{name}", "SIGUSR1"} if to_all else {"SIGUSR1"})
    assert name == "USR1" or told.count(f"SIG{name}") == to_all


def test_script_ends_with_the_status_of_the_command_that_fails(tmp_path):
    script = f'set -e; . "{ROOT}/scripts/commands.sh"; run true; run bash -c "exit 3"; touch after'
    assert subprocess.run(["bash", "-c", script], cwd=tmp_path).returncode == 3
    assert not list(tmp_path.iterdir())


def test_several_nodes_need_to_know_of_each_other():
    done = subprocess.run(
        ["bash", ROOT / "scripts/multi_node.sh"], env={"PATH": os.environ["PATH"]}, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: set NODES to the number of nodes, GPUS to")


@pytest.mark.parametrize(("resume", "taken"), [((), "auto"), (("--resume=./aug.pth", "--evaluate"), "./aug.pth")])
def test_several_nodes_are_started_by_torchrun_and_continue(resume, taken, tmp_path):
    stand_in(tmp_path / "torchrun", f'printf "%s\\n" "$@" >{tmp_path}/told')
    nodes = {"NODES": "3", "GPUS": "4", "MASTER": "node0:29500", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", ROOT / "scripts/multi_node.sh", "Digits_LT", "--logdir=my run", *resume]
    subprocess.run(command, env=nodes, check=True)
    words = (tmp_path / "told").read_text().splitlines()
    own, script = words[: words.index("train.py")], words[words.index("train.py") + 1 :]
    assert {"--nnodes=3", "--nproc-per-node=4", "--rdzv-endpoint=node0:29500", "--rdzv-backend=c10d"} <= set(own)
    args, _ = parse(train.build_parser(), script)
    assert (args.dataset, args.logdir, args.resume) == ("Digits_LT", "my run", taken)


PUBLISHED = (
    *("CIFAR10", "CIFAR10_LT", "CIFAR100", "CIFAR100_LT", "CelebA", "ChestXray", "Digits_LT", "FashionMNIST_LT"),
    *("ImageNet", "ImageNet_LT", "MNIST_LT", "Places_LT", "SVHN", "SVHN_LT", "iNaturalist2017"),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_data_set_that_is_published_has_a_recipe(name):
    text = "".join((ROOT / "scripts" / name).read_text() for name in [*RECIPES, "chestxray.sh", "quickstart.sh"])
    assert re.search(rf"(recipe|train.py) {name} ", text)
    assert name in DATASETS


def test_chestxray_commands_as_they_stand(script, tmp_path, monkeypatch, chest_folder):
    """The published commands, but for epochs, folders and sizes, on 30 X-rays and a weights file where torch.hub looks.

    Without CUDA the training runs in three processes over gloo.
    """
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), hub / "weights")
    with (hub / "weights").open("rb") as file:
        (hub / "weights").rename(hub / f"resnet50-{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}.pth")
    monkeypatch.setattr(train, "work", ranks.work_with_own_weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    log, folder = tmp_path / "logs", tmp_path / "data"
    shutil.copytree(chest_folder, folder)
    names = (folder / "train_val_list.txt").read_text().split()
    (folder / "train_val_list.txt").write_text("\n".join(names[::3]))
    outcomes = []
    for name, *argv in commands("scripts/chestxray.sh")[:3]:
        own = {"datadir": str(folder), "logdir": str(log), "epoch": "1", "worker": "2"}
        if name == "train":
            own["dist-url"] = f"tcp://127.0.0.1:{free_port()}"
            argv += ["--new-size=64", "--crop-size=64"]
        else:
            own["resume"] = f"{log}/checkpoint.pth"
        outcomes.append(script(name, *replaced(argv, **own)))
    assert [done.status for done in outcomes] == [0, 0, 0], [done.err for done in outcomes]
    assert all(done.result["split"] == "test" for done in outcomes[1:])
    assert load_checkpoint(log / "checkpoint.pth")["result"]["split"] == "test"  # printed by a process of its own
    warned = [[line for line in done.err.splitlines() if line.startswith("warning")] for done in outcomes]
    assert sum("--dist-backend nccl: there is no CUDA" in line for line in warned[0]) == 1
    assert any("--gpu 0" in line for line in warned[1])
    for name, said in (("log.txt", "--dist-backend nccl"), ("log_aug_ftl.txt", "--gpu 0")):  # before there was a file
        assert (log / name).read_text().count(f"WARNING {said}: there is no CUDA here") == 1
    state = load_checkpoint(log / "checkpoint.pth")["state_dict"]
    assert state["prior.means"].shape == (15, 2048)


def photographs(root: Path) -> None:
    """60 photographs of three kinds, 20 for the test, in four formats and many shapes."""
    rng = np.random.default_rng(0)
    for number in range(60):
        kind, part = number % 3, "train" if number < 40 else "test"
        height, width = rng.integers(30, 90, 2)
        pixels = rng.integers(0, 90, (height, width, 4), dtype=np.uint8) + np.uint8(80 * kind)
        image, ending = (
            (Image.fromarray(pixels[:, :, :3].copy()), ".JPG"),
            (Image.fromarray(pixels), ".png"),
            (Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), ".tiff"),
            (Image.fromarray(pixels[:, :, 0].copy()), ".png"),
        )[number // 3 % 4]
        path = root / part / f"kind {kind}" / f"{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def test_from_a_folder_of_photographs_to_predictions_by_the_commands_of_the_readme(script, tmp_path):
    """All that have to do with that run, one after the other, but for their number of epochs and the size of images.

    They leave their figures.
    """
    photographs(tmp_path / "photos")
    log = tmp_path / "log"
    places = {
        "./photos": str(tmp_path / "photos"),
        "./new_photos": str(tmp_path / "photos/test"),
        "./logs/photos": str(log),
        "./predictions.csv": str(tmp_path / "predictions.csv"),
    }
    done = {}
    for name, *argv in commands("README.md"):
        if not any("./logs/photos" in word for word in argv) or not (ROOT / program(name)).exists():
            continue
        words = [re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], word) for word in argv]
        own = [re.sub(r"^--epochs=.*", "--epochs=2", word) for word in words]
        trains = name == "train" and own != words
        small = ["--new-size=36", "--crop-size=32"] if trains else []
        what = "measure" if "--evaluate" in argv else "continue" if name == "train" and not trains else name
        done[what] = script(name, *own, *small, *(["--workers=0"] if name in TRAINING else []), figures=True)
        assert done[what].status == 0, done[what].err
    assert done.keys() >= {"train", "augment", "measure", "continue", "predict"}
    assert "imbalance: 3 classes, largest kind 0 14, smallest kind 2 13" in done["train"].out
    assert done["continue"].result == done["train"].result
    assert {name: done["augment"].result[name] for name in METRIC_NAMES} == pytest.approx(
        {name: done["measure"].result[name] for name in METRIC_NAMES}
    )
    evaluated = read_rows(log / "predictions_eval.csv")
    assert {row["id"].rsplit("/", 1)[0] for row in evaluated} == {f"test/kind {n}" for n in range(3)}
    for row, other in zip(read_rows(tmp_path / "predictions.csv"), evaluated, strict=True):  # to the last digit
        assert {name: row[name] for name in row if name[:2] == "p_"}.items() <= other.items()
        assert row["file"].endswith(other["id"])
        assert 0 <= float(row["atypicality"]) <= 1
    figures = {path.name for path in (log / "figures").iterdir()}
    assert figures >= {f"confusion{suffix}.png" for suffix in ("", "_aug", "_eval")} | {"codes.png", "samples.png"}
    assert not any("left out" in outcome.err for outcome in done.values())
    resumed = [f"--datadir={tmp_path}/photos", f"--logdir={log}", "--resume=auto", "--epochs=3"]
    for flag, value in (("--train-transform", "shift"), ("--cache-size", "64")):
        refused = script("train", "ImageFolder", *resumed, f"{flag}={value}")
        assert f"{flag} is {value} here but " in refused.error


@pytest.mark.parametrize(
    ("flags", "name", "kinds"),
    [
        (["--generative", "--gmm-assign=label"], "generative", ("augment", "augment_ftl")),
        (
            ["--amp=bf16", "--lr-step=1", "--new-size=32", "--crop-size=32", "--max-steps=1", "--epochs=1"],
            "bf16",
            ("augment",),
        ),  # torch 2.14 has NaNs at 16 pixels
        (["--weight-reconst=0", "--clip-grad=1"], "no decoder", ("augment_ftl",)),
        (["--weight-gmm=0", "--weight-cls=1"], "no mixture", ("augment",)),
        (
            ["--weight-cls=0", "--milestones=1", "--deterministic", "--gpu=0", "--prior-lr=1"],
            "no classifier",
            ("augment_ftl",),
        ),
        (["--warmup-epochs=2", "--warmup-threshold=100", "--val-fraction=0.2"], "warm-up, hold-out", ("augment",)),
        (
            ["--val-per-class=4", "--prior-lr=0", "--prior-variance", "1", "1", "--initial-sigma=0.1", "--T-max=2"],
            "validation set, held prior",
            ("augment_ftl",),
        ),
    ],
)
def test_every_way_to_train_and_augment(flags, name, kinds, script, tmp_path):
    run = [f"--logdir={tmp_path}", "--workers=0"]
    short = ["--subset-scale=0.5", "--max-steps=3", "--epochs=2", "--batch-size=64"]
    done = script("train", "Digits_LT", *SMALL_MODEL, *run, *short, *flags)
    assert done.status == 0, done.err
    trained = load_checkpoint(tmp_path / "checkpoint.pth")
    unstarted = name in ("no mixture", "warm-up, hold-out")  # of the second the best epoch is one of the warm-up
    assert (trained["result"]["live_components"] is None) == unstarted
    assert (tmp_path / "pictures.npz").exists() == (name != "no decoder")
    assert ("the classifier is not trained, and what is measured" in done.err) == (name == "no classifier")
    if "--prior-variance" in flags:
        assert not trained["state_dict"]["prior.log_vars"].any()
        assert {row["lr_prior"] for row in trained["history"]} == {0.0}
    some = ["--max-steps=1" if name == "bf16" else "--max-steps=20"]  # it is slow on processors that have no bfloat16
    for kind in kinds:
        made = script(kind, "Digits_LT", *run, "--resume=auto", "--epochs=1", "--batch-size=64", *some)
        assert made.status == 0, made.err
        again = load_checkpoint(tmp_path / f"checkpoint_{kind.replace('augment', 'aug')}.pth")
        assert again["class_counts"] == trained["class_counts"]
        for found in (trained, again):  # distances from components that mean something, or none
            assert ("distance_quantiles" in found) == trained["prior_started"] == found["prior_started"]
        assert {row["split"] for row in again["history"]} == {row["split"] for row in trained["history"]}
        path = tmp_path / f"checkpoint_{kind.replace('augment', 'aug')}.pth"
        scored = script("train", "Digits_LT", *run, "--evaluate", f"--resume={path}", "--quiet", "--overwrite", *some)
        assert scored.status == 0, scored.err
        assert ("test images are measured" in scored.err) == (name == "bf16")
        assert again["args"]["amp"] == trained["args"]["amp"]
        if name != "bf16":  # a trial of a re-training and one of an evaluation measure other images
            names = (*METRIC_NAMES, "live_components", "mutual_information")
            expected = {name: made.result[name] for name in names}
            assert {name: scored.result[name] for name in names} == pytest.approx(expected, nan_ok=False)


def test_re_training_of_what_the_scores_leave_out_is_refused(script, tmp_path):
    run = [f"--logdir={tmp_path}", "--workers=0"]
    done = script(
        *("train", "Digits_LT", *SMALL_MODEL, *run, "--max-steps=1", "--batch-size=16", "--epochs=1"),
        *("--generative", "--weight-cls=0"),
    )
    assert done.status == 0, done.err
    assert "--weight-cls 0: the classifier is not trained, and what is measured of it means nothing" not in done.err
    refused = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1")
    assert refused.status == 2
    assert "--generative --weight-cls=0: its scores leave the classifier out, and a re-training" in refused.error


def write_photos(place: Path) -> None:
    """Two classes in folders, with the lists that some data sets read of them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("val", 20)):
        paths = [f"{part}/n0{number % 2}/{number}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(128 * (number % 2))
            Image.fromarray(pixels).save(place / path)
        lines = "".join(f"{path} {number % 2}\n" for number, path in enumerate(paths))
        for name in ("ImageNet_LT", "Places_LT"):
            (place / f"{name}_{'train' if part == 'train' else 'test'}.txt").write_text(lines)
        with (place / "labels.csv").open("a") as file:
            file.write("path,label\n" * (part == "train") + lines.replace(" ", ","))


@pytest.mark.parametrize("name", DATASETS)
def test_defaults_train_a_finite_epoch(name, script, tmp_path, monkeypatch):
    """Three steps by all defaults of optimiser and loss, with a small encoder.

    The images are random ones with the data set's counts; where only files tell the classes, written ones. Each step
    has 60 images, what one of the three published GPUs gets.
    """
    monkeypatch.setattr(datasets.dummy, "IMAGE_SIZE", 32)
    data = ["--dummy"]
    if not DATASETS[name].classes:
        write_photos(tmp_path)
        data = [f"--datadir={tmp_path}", *([f"--csv={tmp_path / 'labels.csv'}"] if name == "CSV" else [])]
    monkeypatch.setattr(train, "CLASS_IMAGES", 4)
    small = ["--arch=resnet32_vae3", "--new-size=16", "--crop-size=16", "--workers=0"]
    short = ["--batch-size=60", "--max-steps=3", "--epochs=1"]
    done = script("train", name, *data, *small, *short, f"--logdir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    assert "diverged" not in done.err
    row = read_rows(tmp_path / "run" / "metrics.csv")[0]
    assert all(abs(float(row[term])) < 1e4 for term in ("loss", "loss_cls", "loss_reconst", "loss_gmm"))


def test_files_of_a_run(trained_digits):
    names = {path.name for path in trained_digits.iterdir()}
    expected = {"args.json", "subset.txt", "metrics.csv", "metrics_per_class.csv", "predictions.csv", "log.txt"}
    assert names >= expected | {"checkpoint.pth", "checkpoint_prev.pth"}
    assert "model_best.pth" not in names  # nothing is chosen on the test images
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = read_rows(trained_digits / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    rates = [float(row[name]) for row in rows for name in ("lr", "lr_prior")]
    assert rates == pytest.approx([5e-3, 5.0, (5e-3 + 1e-5) / 2, (5.0 + 1e-5) / 2])  # 5 is --lr / --weight-gmm
    assert set(METRIC_NAMES) | {
        "split",
        "lr",
        "loss",
        "loss_gmm",
        "live_components",
        "mutual_information",
        "time",
    } <= set(rows[0])
    predictions = read_rows(trained_digits / "predictions.csv")
    assert len(predictions) == len({row["id"] for row in predictions}) == 400
    accuracy = sum(row["target"] == row["prediction"] for row in predictions) / 400
    assert float(rows[-1]["acc"]) == accuracy
    assert all(abs(sum(float(row[f"p_{digit}"]) for digit in range(10)) - 1) < 1e-5 for row in predictions[:20])
    chosen = load_part("Digits_LT", "", train=True).rows
    assert len(chosen) == 523
    assert (trained_digits / "subset.txt").read_text() == "".join(f"{row}\n" for row in chosen)
    components = np.load(trained_digits / "pictures.npz")["components"]
    assert sorted(components) == [f"{digit} as {digit}" for digit in range(10)]  # by the code, so of no class
    health = json.loads((trained_digits / "health.json").read_text())
    assert {name: health[name] for name in ("epoch", "split", "images")} == {"epoch": 2, "split": "test", "images": 400}
    assert 0 < health["mse_class_mean"] < health["mse_constant"] < health["mse"] < 0.25  # after so few steps
    assert "WARNING the decoder has learned nothing" in (trained_digits / "log.txt").read_text()
    started = json.loads((trained_digits / "args.json").read_text())
    assert started["arguments"]["z_dim"] == 32
    assert {"command", "commit", "dirty", "versions", "machine"} <= set(started)
    assert started["data"] == load_checkpoint(trained_digits / "checkpoint.pth")["data_sha256"]


def test_checkpoint_is_plain_and_says_what_it_is(trained_digits):
    found = torch.load(trained_digits / "checkpoint.pth", weights_only=True)
    assert (found["epoch"], found["arch"], found["dataset"]) == (2, "resnet32_vae3", "Digits_LT")
    assert found["class_counts"] == [130, 110, 80, 60, 45, 35, 25, 20, 12, 6]
    assert found["class_names"] == list("0123456789")
    shapes = {name: tuple(value.shape) for name, value in found["state_dict"].items() if name.startswith("prior.")}
    assert shapes == {"prior.logits": (10,), "prior.means": (10, 32), "prior.log_vars": (10, 32)}
    assert not any(name.startswith("module.") for name in found["state_dict"])
    groups = found["optimizer"]["param_groups"]
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("network", 1e-4), ("prior", 0.0)]


def test_quiet_prints_the_result_alone(script, tmp_path):
    """Though a folder stands where the pictures of the decoder should lie, which is a warning."""
    (tmp_path / "pictures.npz").mkdir()
    flags = [*SMALL_MODEL, "--epochs=1", "--max-steps=1", "--batch-size=32"]
    done = script("train", "Digits_LT", *flags, "--quiet", f"--logdir={tmp_path}")
    assert len(done.out.splitlines()) == 1
    assert "warning: no pictures of reconstructions and samples" in done.err
    assert "epoch 1/1" in (tmp_path / "log.txt").read_text()


def test_events_hold_scalars_and_reconstructions(trained_digits):
    events = EventAccumulator(str(trained_digits))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/lr", "test/acsa", "test/live_components"} <= scalars
    assert [event.step for event in events.Scalars("test/acsa")] == [1, 2]
    assert events.Tags()["images"] == ["figures/0 images above reconstructions"]
    assert [image.step for image in events.Images("figures/0 images above reconstructions")] == [1, 2]


def test_codes_file_serves_others(script, tmp_path):
    """The documented file: mu, log_var and targets of each split; used again only for the same checkpoint."""
    run = [f"--logdir={tmp_path}", "--workers=0"]
    small = [*SMALL_MODEL, "--epochs=1", "--max-steps=2", "--batch-size=24"]
    assert script("train", "Digits_LT", *small, *run).status == 0
    made = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1")
    assert "written to" in made.out
    assert "Digits_LT: 523 training images, 400 test images" in made.out
    codes = torch.load(tmp_path / "checkpoint_codes.pth", weights_only=True)
    assert codes["train"]["mu"].shape == codes["train"]["log_var"].shape == (523, 32)
    test = load_part("Digits_LT", "", train=False)
    assert codes["test"]["targets"].tolist() == test.targets.tolist()
    assert codes["ids"]["test"] == list(test.ids)
    assert codes["class_names"] == list("0123456789")
    assert "written to" not in script("augment_ftl", "Digits_LT", *run, "--resume=auto", "--epochs=1").out
    trial = ["--resume=auto", "--epochs=1", "--max-steps=1", "--batch-size=20", "--overwrite"]
    tried = script("augment", "Digits_LT", *run, *trial)  # on some images, whose codes are in no file
    assert tried.status == 0
    assert "codes: " not in tried.out
    assert torch.load(tmp_path / "checkpoint_codes.pth", weights_only=True)["train"]["mu"].shape == (523, 32)
    assert script("train", "Digits_LT", "--resume=auto", "--epochs=2", *run).status == 0
    refused = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1")
    assert refused.status == 2
    assert "another model" in refused.error
    again = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1", "--overwrite")
    assert "written to" in again.out
    for others in (["--amp=bf16"], []):  # codes in another one are other codes
        again = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1", "--overwrite", *others)
        assert "written to" in again.out
    more = script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=2", "--batch-size=50")
    assert "--batch-size is 50 now, 256 before: from epoch 2 on this is another run than that of" in more.err
    assert script("train", "Digits_LT", *small, "--seed=1", *run, "--overwrite").status == 0
    assert not (tmp_path / "checkpoint_aug.pth").exists()
    assert "written to" in script("augment", "Digits_LT", *run, "--resume=auto", "--epochs=1").out
