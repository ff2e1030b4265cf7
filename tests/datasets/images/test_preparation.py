"""Before images are read: who builds the cache, what is left out, and how evaluation stays what it was."""

import multiprocessing
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import preparation
from datasets.images.files import FileDataset
from datasets.images.preparation import prepare_images
from datasets.splits import Splits, load_splits
from helpers.data import data_args
from helpers.project import SMALL_MODEL
from utils.errors import UserError

TRAIN, TEST = 200, 100


def splits_of(folder: Path) -> dict[str, FileDataset]:
    """200 training and 100 test images of noise, made if they are not there."""
    names = [f"{row:08d}_000.png" for row in range(TRAIN + TEST)]
    if not (folder / names[-1]).exists():
        pixels = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 20, 20), dtype=np.uint8)
        for name, image in zip(names, pixels, strict=True):
            Image.fromarray(image).save(folder / name)
    parts = {"training": names[:TRAIN], "test": names[TRAIN:]}
    return {split: FileDataset(folder, part, "ab", np.arange(len(part)) % 2, part) for split, part in parts.items()}


def break_images(folder: Path, rows: list[int]) -> None:
    for row in rows:
        path = folder / f"{row:08d}_000.png"
        path.write_bytes(path.read_bytes()[:60])


def load(folder: Path, augment: bool = True, **options: object) -> Splits:
    return load_splits(data_args("ChestXray", folder, **options), augment)


def images_of(data: object) -> torch.Tensor:
    return torch.stack([data[index][0] for index in range(len(data))])


def test_without_cache_and_skip_nothing_is_written(chest):
    before = sorted(chest.iterdir())
    load(chest)
    assert sorted(chest.iterdir()) == before


def test_evaluation_is_the_same_from_a_cache_of_the_evaluated_size(chest):
    """Bit for bit, of the test and of the held-out images."""
    plain, cached = load(chest, val_fraction=0.34), load(chest, val_fraction=0.34, cache_size=32)
    assert cached.test.cache.size == 32
    for name in ("val", "test"):
        assert torch.equal(images_of(getattr(plain, name)), images_of(getattr(cached, name)))
    assert plain.train.fingerprint() == cached.train.fingerprint()


def test_image_that_turned_bad_later_ends_one_run_and_is_left_out_of_the_next(tmp_path):
    bad = {"cache_size": 0, "bad_images": "skip"}
    data = prepare_images(splits_of(tmp_path), **bad)["training"]
    break_images(tmp_path, [7])
    with pytest.raises(UserError, match=r"00000007_000.png cannot be read"):
        data[7]
    assert len(prepare_images(splits_of(tmp_path), **bad)["training"]) == TRAIN - 1


def test_image_that_turned_bad_has_another_remedy_where_that_cannot_be_noted(tmp_path):
    data = prepare_images(splits_of(tmp_path), 0, "skip")["training"]
    break_images(tmp_path, [7])
    shutil.rmtree(tmp_path / "cache")  # where nobody may write, opening fails too
    with pytest.raises(UserError, match=r"00000007_000.png cannot be read .*: replace it; or name a --cache-dir"):
        data[7]


def test_training_crops_come_from_the_cache_even_when_the_files_are_gone(chest):
    load(chest, cache_size=40)
    cached = load(chest, cache_size=40)
    for path in (chest / "images").iterdir():
        path.write_bytes(b"")
    assert np.asarray(cached.train.read(0)).shape == (40, 40)
    assert images_of(cached.train).shape == (45, 1, 28, 28)
    assert images_of(cached.train.subset(np.arange(3))).shape == (3, 1, 28, 28)


def test_held_out_images_come_from_their_own_rows_of_the_cache(chest):
    whole, parts = load(chest, cache_size=32, augment=False), load(chest, cache_size=32, val_fraction=0.34)
    row_of = {name: row for row, name in enumerate(whole.train.ids)}
    for index, name in enumerate(parts.val.ids):
        assert torch.equal(parts.val[index][0], whole.train[row_of[name]][0])


def test_second_call_reads_no_file(tmp_path, monkeypatch):
    prepare_images(splits_of(tmp_path), 16, "skip", quiet=True)
    splits = splits_of(tmp_path)
    monkeypatch.setattr(FileDataset, "in_file", None)
    assert len(prepare_images(splits, 16, "skip", quiet=True)["training"]) == TRAIN


def test_finished_cache_needs_no_folder_that_can_be_written(tmp_path, monkeypatch):
    prepare_images(splits_of(tmp_path), 16, "error", quiet=True)
    monkeypatch.setattr(preparation, "folder_lock", None)
    assert prepare_images(splits_of(tmp_path), 16, "error", quiet=True)["test"].cache is not None


@pytest.fixture
def read_only(monkeypatch) -> None:
    """Let no folder named 'data' be written, as on a read-only disk; root may write anywhere else."""
    original = os.access

    def access(path: Path, mode: int, **options: object) -> bool:
        return original(path, mode, **options) and not (mode & os.W_OK and "data" in Path(path).parts)

    monkeypatch.setattr(os, "access", access)


@pytest.mark.parametrize("cache_size", [0, 16])
def test_read_only_data_has_its_cache_elsewhere(cache_size, read_only, tmp_path, caplog):
    folder, other = tmp_path / "data", tmp_path / "run" / "cache"
    folder.mkdir()
    splits = splits_of(folder)
    for _ in range(2):
        caplog.clear()
        prepared = prepare_images(splits, cache_size, "skip", quiet=True, otherwise=other)
        assert len(prepared["training"]) == TRAIN
        assert not (folder / "cache").exists()
        assert caplog.messages == [
            f"{folder}/cache cannot be written: what is read from {folder} is kept in {other} (--cache-dir)"
        ]
    with pytest.raises(UserError, match="cache cannot be written: name a folder that can, --cache-dir"):
        prepare_images(splits, cache_size, "skip", quiet=True)


def test_finished_cache_beside_read_only_data_is_used(read_only, tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    splits = splits_of(folder)
    with pytest.MonkeyPatch.context() as writable:
        writable.setattr(os, "access", lambda *_: True)
        prepare_images(splits, 16, "error", quiet=True)
    prepared = prepare_images(splits, 16, "error", quiet=True, otherwise=tmp_path / "other")
    assert prepared["test"].cache is not None
    assert caplog.messages == []
    assert not (tmp_path / "other").exists()


def test_cache_dir_takes_caches_of_several_folders_apart(tmp_path):
    pixels = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        splits = splits_of(folder)
        if name == "b":
            Image.fromarray(np.zeros((20, 20), np.uint8)).save(splits["training"].path(0))
        prepared = prepare_images(splits, 16, "error", quiet=True, cache_dir=str(tmp_path / "caches"))
        pixels.append(np.asarray(prepared["training"].read(0)))
        assert [path for path in folder.iterdir() if path.is_dir()] == []
    assert pixels[0].any()
    assert not pixels[1].any()


@pytest.mark.parametrize("cache_size", [0, 16])
def test_skip_leaves_bad_images_out_and_says_so_at_every_start(cache_size, tmp_path, caplog):
    whole = splits_of(tmp_path)
    break_images(tmp_path, [7, 150])
    for _ in range(2):
        caplog.clear()
        prepared = prepare_images(splits_of(tmp_path), cache_size, "skip", quiet=True)
        lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert lines == [
            "2 of 200 training images cannot be read (00000007_000.png, 00000150_000.png), and are left out"
        ]
        assert prepared["training"].ids.tolist() == np.delete(whole["training"].ids, [7, 150]).tolist()
        assert prepared["training"].fingerprint() != whole["training"].fingerprint()
        assert prepared["test"].fingerprint() == whole["test"].fingerprint()
        assert len([prepared["training"][index] for index in range(TRAIN - 2)]) == TRAIN - 2


@pytest.mark.parametrize("cache_size", [0, 16])
def test_replaced_image_is_taken_in_again(cache_size, tmp_path):
    splits = splits_of(tmp_path)
    good = splits["training"].path(7).read_bytes()
    break_images(tmp_path, [7])
    assert len(prepare_images(splits, cache_size, "skip", quiet=True)["training"]) == TRAIN - 1
    splits["training"].path(7).write_bytes(good)
    assert len(prepare_images(splits, cache_size, "skip", quiet=True)["training"]) == TRAIN


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [7, 8, 9],
            r"3 of 200 training images cannot be read \(00000007.*, 00000008.*, 00000009_000.png\), more",
        ),
        (
            range(4),
            r"4 of 200 training images cannot be read \(00000000_000.png, .*, \.\.\.: all are in .*\), more than",
        ),
        ([200, 201], r"2 of 100 test images .*, more than --bad-images=skip leaves out \(1%\): replace them"),
    ],
    ids=["three", "four", "test"],
)
def test_more_than_a_hundredth_of_a_split_is_an_error(rows, says, tmp_path):
    splits = splits_of(tmp_path)
    break_images(tmp_path, list(rows))
    with pytest.raises(UserError, match=says):
        prepare_images(splits, 0, "skip", quiet=True)


def test_cache_without_skip_names_bad_images_and_the_remedy(tmp_path):
    splits = splits_of(tmp_path)
    break_images(tmp_path, [7])
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 200 training images .*00000007_000.png.*--bad-images=skip"):
            prepare_images(splits, 16, "error", quiet=True)
    assert len(prepare_images(splits, 16, "skip", quiet=True)["training"]) == TRAIN - 1


def test_cache_without_skip_does_not_advise_it_where_it_would_not_help(tmp_path):
    splits = splits_of(tmp_path)
    break_images(tmp_path, [7, 8, 9])
    with pytest.raises(UserError, match=r"3 of 200 training images .*: replace them$"):
        prepare_images(splits, 16, "error", quiet=True)


@pytest.mark.parametrize(("cache_size", "bad_images"), [(16, "error"), (16, "skip"), (0, "skip")])
def test_bad_images_of_all_splits_are_named_or_listed(cache_size, bad_images, tmp_path):
    good = splits_of(tmp_path)["training"].path(0).read_bytes()
    break_images(tmp_path, [*range(0, 70, 7), 200, 201])
    for _ in range(2):
        with pytest.raises(UserError, match="10 of 200 training .* 2 of 100 test images") as error:
            prepare_images(splits_of(tmp_path), cache_size, bad_images, quiet=True)
        training, test = re.findall(r"images cannot be read \((.*?)\)", str(error.value))
        names = [f"{row:08d}_000.png" for row in range(0, 70, 7)]
        some, _, path = training.partition(", ...: all are in ")
        assert some == ", ".join(names[:3])
        assert Path(path).read_text().split() == names
        Path(path).unlink()  # as where the builder was killed before it had written the list
        assert test == "00000200_000.png, 00000201_000.png"
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(good)
    prepare_images(splits_of(tmp_path), cache_size, bad_images, quiet=True)
    assert not list(tmp_path.rglob("damaged_images.txt"))


def test_class_that_loses_its_only_images_is_named(chest, monkeypatch):
    monkeypatch.setattr(preparation, "MOST_BAD", 1.0)
    data = load(chest).train
    for row in np.flatnonzero(data.targets == 14).tolist():
        data.path(row).write_bytes(b"")
    with pytest.raises(UserError, match="no training image of class Hernia"):
        load(chest, bad_images="skip")


def test_space_is_compared_before_the_first_byte(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = (TRAIN + TEST) * 64 * 64
    splits = splits_of(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    with pytest.raises(UserError, match=r"--cache-size 64 needs 0.0 GB in .*/cache, 0.0 GB are free: free some space"):
        prepare_images(splits, 64, "error", quiet=True)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    prepare_images(splits, 64, "error", quiet=True)


def test_splits_drawn_from_one_list_share_a_cache_and_its_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    whole = splits_of(tmp_path)["training"]
    splits = {"training": whole.subset(np.arange(0, TRAIN, 2)), "test": whole.subset(np.arange(1, TRAIN, 2))}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, TRAIN * 64 * 64))
    prepare_images(splits, 64, "error", quiet=True)
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 1


def test_one_process_builds_however_many_share_the_folder(tmp_path, monkeypatch):
    in_file = FileDataset.in_file

    def counted(data: FileDataset, row: int) -> object:
        with (tmp_path / "opened").open("a") as file:
            file.write(f"{data.names[row]}\n")
        return in_file(data, row)

    def build() -> None:
        together.wait(60)
        assert prepare_images(splits, 16, "error", quiet=True)["test"][99][0].size == (16, 16)

    monkeypatch.setattr(FileDataset, "in_file", counted)
    splits = splits_of(tmp_path)
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(2)
    processes = [fork.Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    opened = (tmp_path / "opened").read_text().split()
    assert len(opened) == len(set(opened)) == TRAIN + TEST


def test_data_set_in_memory_refuses_a_cache():
    with pytest.raises(UserError, match="--cache-size 32: Digits_LT is held in memory as it is, leave"):
        load_splits(data_args("Digits_LT", cache_size=32))


def test_dummy_images_need_no_cache(caplog):
    splits = load_splits(data_args("ChestXray", "not/there", dummy=True, cache_size=32, bad_images="skip"))
    assert splits.train[0][0].shape == (1, 28, 28)
    assert [record.message for record in caplog.records] == ["--cache-size 32 is not used: --dummy reads no files"]


def test_resumed_run_and_augmentation_adopt_folder_and_cache_and_refuse_another(script, chest, tmp_path, monkeypatch):
    train = ["train", "ChestXray", f"--logdir={tmp_path / 'log'}", "--quiet"]
    monkeypatch.chdir(tmp_path)
    places = [f"--datadir={chest.name}", "--cache-dir=caches"]
    first = script(*train, *places, *SMALL_MODEL, "--cache-size=40", "--epochs=1", "--max-steps=1", "--clip-grad=1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert first.status == 0, first.err
    for path in (chest / "images").iterdir():
        path.write_bytes(b"")  # only the cache is left
    other = script(*train, "--resume=auto", "--cache-size=0", "--epochs=2")
    assert "--cache-size is 0 here but 40 in" in other.error
    resumed = script(*train, "--resume=auto", "--epochs=2")
    assert resumed.status == 0, resumed.err
    flags = ["--resume=auto", "--epochs=1", "--batch-size=16", "--max-steps=1", "--workers=0"]
    augmented = script("augment", *train[1:], *flags)
    assert augmented.status == 0, augmented.err
    assert not list((tmp_path / "elsewhere").iterdir())
    chest.rename(tmp_path / "moved")
    for name in ("train", "augment"):
        gone = script(name, *train[1:], "--resume=auto", "--epochs=3")
        assert f"{chest} is not there: name the folder of the data of" in gone.error
    assert not chest.exists()
