"""args.json: what it says of a start, of resumptions and of changes."""

import argparse
import json

import numpy as np
import pytest

from utils.device import machine
from utils.training.folder import RunFolder
from utils.training.record import write_record


def checkpoint_of(args: dict[str, object], epoch: int, step: int = 0, nodes: int = 1) -> dict[str, object]:
    return {"args": {"batch_size": 8} | args, "epoch": epoch, "step": step, "nodes": nodes}


def test_changes_of_continuations_that_came_to_nothing_are_forgotten(tmp_path):
    """The checkpoint knows what the run was trained with."""
    (tmp_path / "checkpoint.pth").touch()
    folder, stored = RunFolder(str(tmp_path)), {"epochs": 6, "batch_size": 64, "wd": 0.1}

    def start(epoch: int | None, **changes: object) -> list[dict]:
        continued = checkpoint_of(stored, epoch) if epoch else None
        write_record(folder, argparse.Namespace(**stored | changes), {}, continued)
        return [start["changed"] for start in json.loads((tmp_path / "args.json").read_text())["resumed"]]

    assert start(None) == []
    assert start(6, epochs=7, batch_size=128) == [{"epochs": [6, 7], "batch_size": [64, 128]}]
    assert start(6, epochs=8) == [{}, {"epochs": [6, 8]}]
    stored["epochs"] = 8  # that one has saved itself
    assert start(7, epochs=9) == [{}, {"epochs": [6, 8]}, {"epochs": [8, 9]}]


@pytest.mark.parametrize("content", ["", "[]", '{"resumed": 1}', "{"])
def test_damaged_args_file_is_written_anew_and_said(content, tmp_path, caplog):
    caplog.set_level("WARNING", "dgcmm")
    (tmp_path / "args.json").write_text(content)
    (tmp_path / "checkpoint.pth").touch()
    write_record(RunFolder(str(tmp_path)), argparse.Namespace(lr=1.0), {}, checkpoint_of({}, 1))
    assert "args.json is damaged and written anew" in caplog.text
    assert json.loads((tmp_path / "args.json").read_text())["arguments"] == {"lr": 1.0}


def test_arguments_keep_the_first_start_and_list_resumptions(tmp_path):
    folder = RunFolder(str(tmp_path))
    write_record(folder, argparse.Namespace(lr=0.1), {"train": "abc"})
    folder.checkpoint.touch()
    write_record(folder, argparse.Namespace(lr=0.1), {"train": "abc"}, checkpoint_of({"lr": 0.1}, 3, 7), processes=2)
    content = json.loads((tmp_path / "args.json").read_text())
    assert content["arguments"] == {"lr": 0.1}
    assert content["data"] == {"train": "abc"}
    assert [(launch["after_epoch"], launch["after_step"]) for launch in content["resumed"]] == [(3, 7)]
    assert (content["processes"], content["resumed"][0]["processes"]) == (1, 2)
    assert {"torch", "python", "scikit-learn"} <= set(content["versions"])
    assert content["machine"] == content["resumed"][0]["machine"] == machine()


def test_what_a_continuation_changes_is_noted(tmp_path):
    before = {"lr": 1.0, "batch_size": 50, "T_max": 2, "epochs": 2, "datadir": "/a"}
    now = argparse.Namespace(lr=1.0, batch_size=25, T_max=4, epochs=4, datadir="/b")
    folder = RunFolder(str(tmp_path))
    write_record(folder, argparse.Namespace(**before), {})
    folder.checkpoint.touch()
    write_record(folder, now, {}, checkpoint_of(before, 2))
    write_record(folder, now, {}, checkpoint_of(vars(now), 3))
    content = json.loads((tmp_path / "args.json").read_text())
    assert content["arguments"] == before
    changed = {"epochs": [2, 4], "batch_size": [50, 25], "T_max": [2, 4]}
    assert [(entry["after_epoch"], entry["changed"]) for entry in content["resumed"]] == [(2, changed), (3, {})]
    elsewhere = RunFolder(str(tmp_path / "other"))
    elsewhere.path.mkdir()
    write_record(elsewhere, argparse.Namespace(lr=7.0), {})  # of a start that came to nothing
    write_record(elsewhere, now, {}, checkpoint_of(before, 2))
    content = json.loads((elsewhere.path / "args.json").read_text())
    assert (content["arguments"], content["resumed"][0]["changed"]) == (vars(now), changed)


def test_batch_size_has_changed_where_the_images_of_a_step_have(tmp_path):
    """It is that of a node. Of what came to nothing the checkpoint knows nothing, on however many nodes it was."""
    folder = RunFolder(str(tmp_path))
    folder.checkpoint.touch()
    checkpoint = {"batch_size": 16}, 2

    def start(batch_size: int, nodes: int, of: int) -> list[dict]:
        args = argparse.Namespace(batch_size=batch_size)
        write_record(folder, args, {}, checkpoint_of(*checkpoint, nodes=of) if of else None, nodes=nodes)
        return [start["changed"] for start in json.loads((tmp_path / "args.json").read_text())["resumed"]]

    assert start(16, 2, 0) == []
    assert start(32, 1, 2) == [{}]
    assert start(16, 1, 2) == [{}, {"batch_size": [32, 16]}]
    checkpoint = {"batch_size": 16}, 3  # that one has saved itself, on one node
    assert start(8, 2, 1) == [{}, {"batch_size": [32, 16]}, {}]
    assert start(4, 2, 1) == [{}, {"batch_size": [32, 16]}, {}, {"batch_size": [8, 4]}]
    assert start(16, 1, 1) == [{}, {"batch_size": [32, 16]}, {}, {}, {}]


def test_changes_of_a_run_that_went_back_are_of_the_epoch_that_it_went_back_to(tmp_path):
    before = {"start_epoch": 2, "lr": 1.0}
    now = argparse.Namespace(start_epoch=3, lr=0.5)
    write_record(RunFolder(str(tmp_path)), now, {}, checkpoint_of(before, 4, 7))
    (resumed,) = json.loads((tmp_path / "args.json").read_text())["resumed"]
    assert (resumed["after_epoch"], resumed["after_step"]) == (3, 0)
    write_record(RunFolder(str(tmp_path)), now, {}, checkpoint_of({"start_epoch": 3, "lr": 1.0}, 4, 7))
    (resumed,) = json.loads((tmp_path / "args.json").read_text())["resumed"]  # it has gone back before
    assert (resumed["after_epoch"], resumed["after_step"]) == (4, 7)


def test_package_without_metadata_has_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.record.PACKAGES", ("numpy", "a-package-of-ones-own"))
    write_record(RunFolder(str(tmp_path)), argparse.Namespace(lr=0.1), {})
    versions = json.loads((tmp_path / "args.json").read_text())["versions"]
    assert versions["a-package-of-ones-own"] is None
    assert versions["numpy"] == np.__version__
