"""The check of a machine with a GPU: its commands, parts that fail or hang, and the table; nothing of it needs one."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

import augment
import augment_ftl
import train
from helpers.project import ROOT
from scripts import gpu_check
from scripts.gpu_check import End, Part, missing_packages, published_commands, run_part, summary
from utils.cli.rules import check_training, complete, parse

INSTALLED = gpu_check.installed_version


def test_without_a_gpu_it_is_one_line_and_status_2_even_where_packages_are_missing(tmp_path):
    """Which it is to name: it imports torch and packaging, and of this project what needs no more."""
    absent = "filelock", "sklearn", "tensorboard", "matplotlib", "tqdm", "isal"
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({absent!r}))")
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([ROOT / "scripts" / "gpu_check.sh"], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no GPU")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("gpus", "used"), [(1, 1), (3, 3), (8, 6)])
def test_published_commands_become_short_ones_on_the_gpus_that_there_are(gpus, used, tmp_path):
    parsers = {"train.py": train, "augment_ftl.py": augment_ftl, "augment.py": augment}
    commands = published_commands(gpus, str(tmp_path))
    assert [words[0] for words in commands] == list(parsers)
    for name, *words in commands:
        args, given = parse(parsers[name].build_parser(), words)
        complete(args, 2048)
        assert (args.dataset, args.dummy, args.epochs, args.max_steps) == ("ChestXray", True, 1, 10)
        assert args.logdir == str(tmp_path)
        if name == "train.py":
            check_training(args, given)
            assert (args.batch_size, args.ngpus, args.pretrained, args.dist_backend) == (180, used, False, "nccl")
        else:
            assert args.resume == f"{tmp_path}/checkpoint.pth"


@pytest.mark.parametrize(
    ("code", "text"), [("print('well')", "good"), ("print('ill'); exit(3)", "FAILED with status 3")]
)
def test_output_of_a_part_is_kept_however_it_ends(code, text, tmp_path):
    end = run_part(Part("name", ["-c", code], seconds=60), tmp_path)
    assert (end.text, end.good) == (text, text == "good")
    assert (tmp_path / "name.txt").read_text() == end.output != ""


SLOW = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("what was found", flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)
"""


def test_part_that_takes_too_long_may_say_what_it_has_found_and_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    end = run_part(Part("name", ["-c", SLOW], seconds=2), tmp_path)
    assert (end.text, end.good) == ("ENDED after 2 s", False)
    child, *said = end.output.splitlines()
    assert "what was found" in said
    assert (tmp_path / "name.txt").read_text() == end.output
    assert not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"


def test_what_was_found_is_written_after_each_part(tmp_path, monkeypatch):
    """A check that is ended from outside has said what it knows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "card")

    def run(part, out):
        if part.name == "benchmark":
            raise KeyboardInterrupt
        return End(part, 0, 1.0, "fine")

    monkeypatch.setattr(gpu_check, "run_part", run)
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main([f"--out={tmp_path}"])
    assert "| tests | good | 1 |" in (tmp_path / "summary.md").read_text()


def test_table_has_parts_ratios_and_what_a_training_takes():
    rows = (
        '[{"name": "step: model / bare, 180 images, --amp bf16", "ratio": 1.2, "target": 1.1, "at_least": false, '
        '"met": false, "rate": 2000.0, "memory": 3221225472}]'
    )
    ends = [
        End(Part("tests", []), 0, 3.0, "fine"),
        End(Part("benchmark", []), 3, 60.4, f"commit 1; a card\n{rows}\n"),
        End(Part("compile", []), 1, 60.4, f"{rows}\n"),  # an error, after some rows
        End(Part("profile", []), None, 60.0, ""),
    ]
    lines = summary("2 x card", ends).splitlines()
    assert lines[:3] == ["# 2 x card", "", "commit 1; a card"]
    assert "| benchmark | a target is missed | 60 |" in lines
    assert "| step: model / bare, 180 images, --amp bf16 | 1.200 | <= 1.1 | missed |" in lines
    assert "| 180 images, --amp bf16 | 2,000 | 3.0 GiB | 1.0 h |" in lines  # 7.3 million images
    assert lines[-1] == "failed: compile, profile"


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch):
    assert missing_packages() == []
    versions = {"isal": None, "filelock": "3.20.0"}
    monkeypatch.setattr(
        gpu_check, "installed_version", lambda name: versions[name] if name in versions else INSTALLED(name)
    )
    isal, filelock = missing_packages()
    assert isal.startswith("isal")
    assert re.fullmatch(r"filelock.*>=3\.32\.7.* \(has 3\.20\.0\)", filelock)
