"""SVHN: .mat files as they are published, here with few pixels that differ."""

import builtins
import hashlib
import io

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import SVHN

from datasets import DATASETS
from datasets.splits import load_splits
from helpers.data import data_args
from helpers.limits import refusing
from helpers.served import serving
from utils.errors import UserError

COUNTS = {"train": (60, 30, 20, 16, 12, 10, 8, 5, 3, 2), "test": (2,) * 10}


@pytest.fixture
def mats(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Both files, with fewer images; digit 0 has the label 10, an image shows its label and row."""
    files = {}
    for split, counts in COUNTS.items():
        labels = np.repeat(np.arange(10), counts)
        images = np.zeros((32, 32, 3, len(labels)), np.uint8)
        images[0, 1, 0], images[0, 1, 1] = labels, np.arange(len(labels))
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"X": images, "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)})
        files[f"{split}_32x32.mat"] = buffer.getvalue()
    md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    split_list = {
        split: [f"http://127.0.0.1:9/{split}", f"{split}_32x32.mat", md5[f"{split}_32x32.mat"]] for split in COUNTS
    }
    monkeypatch.setattr(SVHN, "split_list", split_list)
    monkeypatch.setattr("datasets.svhn.LONG_TAIL", (50, 20, 10, 8, 6, 5, 4, 3, 2, 1))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return files


@pytest.mark.parametrize("name", ["SVHN", "SVHN_LT"])
def test_images_and_labels(name, mats, tmp_path):
    for file, content in mats.items():
        (tmp_path / file).write_bytes(content)
    splits = load_splits(data_args(name, tmp_path, crop_size=32), augment=False)
    assert splits.train.class_counts == ([*COUNTS["train"]] if name == "SVHN" else [50, 20, 10, 8, 6, 5, 4, 3, 2, 1])
    assert splits.test.class_counts == [2] * 10
    for part in (splits.train, splits.test):
        for index in range(0, len(part), 7):
            image, label, _ = part[index]
            assert image[:, 0, 1].tolist() == [label, part.rows[index], 0]


def test_files_are_downloaded_once(mats, monkeypatch, tmp_path):
    with serving(mats) as server:
        for split in COUNTS:
            _, *rest = SVHN.split_list[split]
            monkeypatch.setitem(SVHN.split_list, split, [server.url + rest[0], *rest])
        load_splits(data_args("SVHN", tmp_path))
        asked = list(server.asked)
        load_splits(data_args("SVHN", tmp_path))
        assert set(server.asked) == set(mats)
        assert server.asked == asked
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == set(mats)


def test_what_lacks_and_what_is_damaged_is_said(mats, tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(mats["train_32x32.mat"])
    with pytest.raises(UserError, match=r"lacks test_32x32.mat, and the download failed .*: put http://.* there"):
        load_splits(data_args("SVHN", tmp_path))
    (tmp_path / "test_32x32.mat").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"test_32x32.mat differs from what is published: delete it"):
        load_splits(data_args("SVHN", tmp_path))


def test_file_that_may_not_be_read_is_named(mats, tmp_path, monkeypatch):
    for name, content in mats.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(builtins, "open", refusing(open, "test_32x32.mat"))
    with pytest.raises(UserError, match=r"test_32x32.mat cannot be read \(Permission denied\): see its permissions"):
        load_splits(data_args("SVHN", tmp_path))


def test_published_totals():
    assert (sum(DATASETS["SVHN"].train_counts), sum(DATASETS["SVHN"].test_counts)) == (73_257, 26_032)
    assert sum(DATASETS["SVHN_LT"].train_counts) == 10_280
