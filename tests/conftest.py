"""What the tests share: running a script in this process, and small data in the real layouts."""

import csv
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# The suite is the same on every machine: neither it nor what it starts sees a GPU, but for tests/gpu if asked for. This
# stands here because torch must not have looked before.
if os.environ.get("GPU_TESTS") != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
from PIL import Image

import train
from datasets import DATASETS
from datasets.workers import kill_workers
from helpers.project import HEADER_2017, SMALL_MODEL
from utils.errors import run_script

TRAINING = ("train", "augment", "augment_ftl")

# What nohup, or an & in a script, makes ignored would be so in all that the tests start, whose subject signals are.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.umask(0o022)  # some tests close a folder, and nothing but that one, to others


class Outcome(NamedTuple):
    """How a script ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        """The JSON object on the last line of standard output."""
        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def error(self) -> str:
        """The line of standard error that says what was wrong; there must be exactly one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long tests first: two workers then end together."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    """Let scripts choose the algorithms, and their default be what users have."""
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def several_threads() -> Iterator[None]:
    """Compute with more threads than the one of other tests, as most users do."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """The project's log as a new process finds it, whatever scripts have run in this one."""

    def reset() -> None:
        log.handlers.clear()
        log.setLevel(logging.NOTSET)
        log.propagate, log.disabled = True, False

    log = logging.getLogger("dgcmm")
    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def _no_workers_left() -> Iterator[None]:
    """Kill the loading processes that a test leaves: torch waits 5 s for each when it collects a loader of a cycle.

    Python closes the queue that would tell a worker to end before torch puts the word into it.
    """
    yield
    kill_workers()


@pytest.fixture
def script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run train.py, augment.py or another script in this process: script('train', flag, ...) -> Outcome.

    Without figures, which take seconds, unless they are asked for.
    """

    def run(name: str, *argv: object, figures: bool = False) -> Outcome:
        words = [*map(str, argv), *(["--no-figures"] if name in TRAINING and not figures else [])]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_script(importlib.import_module(name).main)
        out, err = capsys.readouterr()
        return Outcome(end.value.code, out, err)

    return run


@pytest.fixture
def lock_elsewhere() -> Iterator[Callable[[Path], None]]:
    """Have another process lock a file until the test ends."""
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print(1, flush=True); input()"
    holders = []

    def lock(path: Path) -> None:
        words = [sys.executable, "-c", code, str(path)]
        holders.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert holders[-1].stdout.readline()

    yield lock
    for holder in holders:
        holder.communicate(b"\n")


@pytest.fixture(scope="session")
def chest_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 PNGs in ChestXray's layout: 3 of a class for training, 1 for test, some RGBA; rows with two labels too."""
    folder = tmp_path_factory.mktemp("ChestXray")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str]] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for number, label in enumerate(label for label in DATASETS["ChestXray"].classes for _ in range(4)):
        name = f"{number + 1:08d}_000.png"
        grey = rng.integers(0, 256, (48, 48), dtype=np.uint8)
        image = Image.fromarray(grey)
        (image.convert("RGBA") if number % 7 == 0 else image).save(folder / "images" / name)
        rows.append((name, label))
        lists["test_list.txt" if number % 4 == 3 else "train_val_list.txt"].append(name)
    for name in ("00000900_000.png", "00000901_000.png"):  # several labels: listed, but neither read nor needed
        rows.append((name, "Mass|Nodule"))
        lists["train_val_list.txt"].append(name)
    with (folder / "Data_Entry_2017.csv").open("w", newline="") as file:
        file.write(HEADER_2017 + "\n")
        csv.writer(file).writerows([*row, 0, 1, 57, "M", "PA", 2682, 2749, 0.143, 0.143, ""] for row in rows)
    for name, names in lists.items():
        (folder / name).write_text("\n".join(names))  # no final newline, as in NIH's files
    return folder


@pytest.fixture
def chest(chest_folder: Path, tmp_path: Path) -> Path:
    """A copy of `chest_folder` to spoil."""
    return shutil.copytree(chest_folder, tmp_path / "ChestXray")


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a two-epoch training on Digits_LT; tests that write must copy it."""
    folder = tmp_path_factory.mktemp("digits_run")
    flags = [
        *SMALL_MODEL,
        "--epochs=2",
        "--batch-size=64",
        "--T-max=2",
        "--quiet",
        "--no-figures",
        f"--logdir={folder}",
    ]
    train.main(["Digits_LT", *flags])
    return folder
