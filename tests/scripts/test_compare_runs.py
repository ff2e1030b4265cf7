"""compare_runs.py: whatever differs between two runs is named, and nothing of clocks and places is."""

import shutil
from pathlib import Path

import pytest
import torch

from scripts.compare_runs import differences
from utils.errors import UserError
from utils.training.checkpoint import ENTRIES, FORMAT, load_checkpoint, save_checkpoint

TEXTS = {
    "metrics{}.csv": "epoch,acc,time\n1,0.5,12.0\n2,0.75,11.0\n",
    "metrics_per_class{}.csv": "class,recall\na,0.5\n",
    "predictions{}.csv": "id,target,prediction\ni0,1,1\ni1,0,1\n",
    "health{}.json": '{"mse": 0.25}\n',
}
SCRIPTS = ("", "_aug")


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """Two folders of one training and re-training; clocks and places are not the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for suffix in SCRIPTS:
        for name, text in TEXTS.items():
            (first / name.format(suffix)).write_text(text)
        weights = {"weight": torch.arange(6.0).view(2, 3)}
        content = {"format": FORMAT, "state_dict": weights, "history": [{"epoch": 1, "acc": 0.5, "time": 12.0}]}
        content["args"] = {"lr": 0.1, "logdir": "first"}
        save_checkpoint(first / f"checkpoint{suffix}.pth", dict.fromkeys(ENTRIES) | content)
    shutil.copytree(first, second)
    for suffix in SCRIPTS:
        replace(second / f"metrics{suffix}.csv", "12.0", "9.0")
        change(second / f"checkpoint{suffix}.pth", args={"lr": 0.1, "logdir": "second"})
        change(second / f"checkpoint{suffix}.pth", history=[{"epoch": 1, "acc": 0.5, "time": 9.0}])
    return first, second


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def change(path: Path, **entries: object) -> None:
    save_checkpoint(path, load_checkpoint(path) | entries)


def test_clocks_and_places_are_no_differences(runs, script):
    assert differences(*runs) == []
    done = script("scripts.compare_runs", *runs)
    assert (done.status, done.out) == (0, "the same run\n")


@pytest.mark.parametrize("suffix", SCRIPTS)
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metrics{}.csv", "0.75", "0.751"),
        ("metrics{}.csv", "2,0.75,11.0\n", ""),
        ("metrics_per_class{}.csv", "0.5", "0.6"),
        ("predictions{}.csv", "i1,0,1", "i1,0,0"),
        ("health{}.json", "0.25", "0.26"),
    ],
    ids=["cell", "row", "recall", "prediction", "health"],
)
def test_file_that_differs_is_named(name, old, new, suffix, runs):
    path = runs[1] / name.format(suffix)
    replace(path, old, new)
    assert differences(*runs) == [path.name]
    path.unlink()
    assert differences(*runs) == differences(*runs[::-1]) == [path.name]


@pytest.mark.parametrize("suffix", SCRIPTS)
@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("state_dict", {"weight": torch.arange(6.0).view(2, 3) + 1e-6}),
        ("history", [{"epoch": 1, "acc": 0.4, "time": 12.0}]),
        ("args", {"lr": 0.2, "logdir": "first"}),
        ("sums", [(1, (0.5,))]),
        ("of another version", 1),
    ],
)
def test_entry_of_a_checkpoint_that_differs_is_named(entry, value, suffix, runs):
    change(runs[1] / f"checkpoint{suffix}.pth", **{entry: value})
    assert differences(*runs) == differences(*runs[::-1]) == [f"checkpoint{suffix}.pth: {entry}"]


@pytest.mark.parametrize("suffix", SCRIPTS)
def test_best_epoch_that_differs_is_named(suffix, runs):
    for folder in runs:
        shutil.copy(folder / f"checkpoint{suffix}.pth", folder / f"model_best{suffix}.pth")
    assert differences(*runs) == []
    change(runs[1] / f"model_best{suffix}.pth", best={"epoch": 2, "acsa": 0.5})
    assert differences(*runs) == differences(*runs[::-1]) == [f"model_best{suffix}.pth: best"]
    (runs[1] / f"model_best{suffix}.pth").unlink()
    assert f"model_best{suffix}.pth: state_dict" in differences(*runs)


def test_command_names_all_that_differs_and_ends_with_1(runs, script):
    replace(runs[1] / "metrics_aug.csv", "0.75", "0.751")
    change(runs[1] / "checkpoint.pth", epoch=3)
    done = script("scripts.compare_runs", *runs)
    assert (done.status, done.out) == (1, "differs: checkpoint.pth: epoch\ndiffers: metrics_aug.csv\n")


def test_folders_without_a_checkpoint_and_one_that_lacks_one_are_told(runs, script, tmp_path):
    done = script("scripts.compare_runs", tmp_path, tmp_path)
    assert done.status == 2
    assert f"neither {tmp_path} nor {tmp_path} holds a checkpoint: name two run folders" in done.error
    (runs[0] / "checkpoint_aug.pth").unlink()
    with pytest.raises(UserError, match="there is no file .*first/checkpoint_aug.pth"):
        differences(*runs)
