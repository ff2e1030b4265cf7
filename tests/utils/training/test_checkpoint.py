"""Checkpoints: readable by plain torch, damage found, nothing torn, nothing run."""

import copy
import errno
import os
import pickle
import random
import shutil

import pytest
import torch

from utils import files
from utils.cli.rules import BEFORE
from utils.errors import UserError
from utils.training.checkpoint import (
    ENTRIES,
    FORMAT,
    digest,
    is_made_from,
    load_checkpoint,
    load_latest,
    read_verified,
    save_checkpoint,
)

CONTENT = dict.fromkeys(ENTRIES) | {
    "kind": "train",
    "format": FORMAT,
    "epoch": 3,
    "state_dict": {"weight": torch.arange(600.0).view(20, 30), "steps": torch.tensor(7)},
    "args": {"lr": 5e-3, "milestones": [3, 6], "clip_grad": 0.0, "arch": "resnet_vae3"},
}
READ = CONTENT | {"args": BEFORE | CONTENT["args"]}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "checkpoint.pth"
    save_checkpoint(file, CONTENT)
    return file


def test_what_is_read_is_what_was_written(path):
    found = load_checkpoint(path)
    assert digest({key: found[key] for key in CONTENT}) == digest(READ)
    assert torch.load(path, weights_only=True)["epoch"] == 3


def test_folder_of_a_run_is_told_from_a_missing_file(path):
    with pytest.raises(UserError, match=f"{path.parent} is a folder: name a checkpoint in it, as {path}"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("name", ["kind", "sums", "args", "best"])
def test_checkpoint_of_another_version_is_named(name, path):
    save_checkpoint(path, {key: value for key, value in CONTENT.items() if key != name})
    with pytest.raises(UserError, match=rf"{path} was written by another version of this code \(it lacks {name}\)"):
        load_checkpoint(path)


def test_flipped_bit_is_found_or_changes_nothing(path):
    whole = path.read_bytes()
    draw = random.Random(0)
    found = 0
    for _ in range(60):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            loaded = load_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert digest({key: loaded[key] for key in CONTENT}) == digest(READ)
    assert found > 20  # most of the file is weights


def test_changed_weight_is_found(path):
    content = path.read_bytes()
    at = content.index(torch.tensor([431.0]).numpy().tobytes())
    path.write_bytes(content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :])
    with pytest.raises(UserError, match=r"(damaged|cannot be loaded).*[:;] use an older copy"):
        load_checkpoint(path)
    previous = path.with_name(f"{path.stem}_prev.pth")
    previous.touch()
    with pytest.raises(UserError, match=f": name the one before it, {previous}"):
        load_checkpoint(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EMFILE, errno.EIO])
def test_run_does_not_go_back_from_a_checkpoint_that_cannot_be_read_now(number, path, monkeypatch):
    """It may be whole, and the next one would take its place."""
    previous = path.with_name("previous.pth")
    shutil.copyfile(path, previous)

    def refused(place, **options):
        if place == path:
            raise OSError(number, os.strerror(number), str(place))
        return loaded(place, **options)

    loaded = torch.load
    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(UserError, match=rf"{path} cannot be read \({os.strerror(number)}\): make it readable"):
        load_latest(path, previous)
    assert load_checkpoint(previous)


def test_run_does_not_go_back_where_the_memory_has_no_room_for_a_checkpoint(path, monkeypatch):
    previous = path.with_name("previous.pth")
    shutil.copyfile(path, previous)
    monkeypatch.setattr(torch, "load", lambda *args, **options: torch.empty(2**50))
    with pytest.raises(UserError, match=rf"{path} cannot be read \(the memory is used up\): end what else"):
        load_latest(path, previous)


def test_truncation_is_found(path):
    whole = path.read_bytes()
    for share in range(60):
        path.write_bytes(whole[: share * len(whole) // 60])
        with pytest.raises(UserError, match="cannot be loaded"):
            load_checkpoint(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickled_payload_is_not_run(tmp_path):
    payload, target = Payload(), tmp_path / "made by the payload"
    payload.target = str(target)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(payload))
    torch.save({"state_dict": payload, "sha256": ""}, tmp_path / "zipped.pth")
    for name in ("evil.pth", "zipped.pth"):
        with pytest.raises(UserError, match="cannot be loaded"):
            load_checkpoint(tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, {"state_dict": {}}])
def test_foreign_file_is_named(tmp_path, content):
    torch.save(content, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match="foreign.pth"):
        load_checkpoint(tmp_path / "foreign.pth")


def test_file_without_weights_is_no_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "codes.pth", {"key": 1})
    assert read_verified(tmp_path / "codes.pth")["key"] == 1
    with pytest.raises(UserError, match="no weights"):
        load_checkpoint(tmp_path / "codes.pth")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no file .*missing.pth"):
        load_checkpoint(tmp_path / "missing.pth")


def test_predecessor_is_kept(path):
    previous = path.with_name("checkpoint_prev.pth")
    save_checkpoint(path, {**CONTENT, "epoch": 4}, previous)
    assert (load_checkpoint(path)["epoch"], load_checkpoint(previous)["epoch"]) == (4, 3)
    save_checkpoint(path, {**CONTENT, "epoch": 5}, previous)
    assert (load_checkpoint(path)["epoch"], load_checkpoint(previous)["epoch"]) == (5, 4)


def test_retraining_knows_its_model_by_the_weights_and_an_older_one_by_the_whole_file(path):
    trained = load_checkpoint(path)
    known = [digest(trained["state_dict"]), trained["sha256"], digest({}), None]
    assert [is_made_from({"trained_sha256": sha256}, trained) for sha256 in known] == [True, True, False, False]


def test_failed_write_leaves_the_good_file_and_no_rest(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, {**CONTENT, "epoch": 9})
    assert load_checkpoint(path)["epoch"] == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["state_dict"]["weight"].__setitem__((3, 4), -1.0),
        lambda c: c["args"].__setitem__("lr", 5.0000001e-3),
        lambda c: c["args"].__setitem__("milestones", (3, 6)),
        lambda c: c["state_dict"].__setitem__("weight", c["state_dict"]["weight"].view(30, 20)),
        lambda c: c["state_dict"].__setitem__("weight", c["state_dict"]["weight"].double()),
        lambda c: c.__setitem__("epoch", "3"),
    ],
)
def test_digest_sees_every_change(change):
    other = copy.deepcopy(CONTENT)
    change(other)
    assert digest(other) != digest(CONTENT)
