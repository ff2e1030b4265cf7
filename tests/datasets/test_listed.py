"""ImageNet_LT and Places_LT: list files in both dialects, images in every layout."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS, listed
from datasets.splits import load_splits
from helpers.data import data_args
from utils.errors import UserError

CLASSES = ["airfield", "apartment_building-outdoor", "zen_garden"]
TRAIN = {"airfield": 4, "apartment_building-outdoor": 2, "zen_garden": 1}
LISTS = {  # dialect -> form of a line of the training and of the test list
    "A": ("train/{cls}/{n:08d}.jpg", "val/{cls}/Places365_val_{n:08d}.jpg"),
    "B": ("data_256/{cls[0]}/{nested}/{n:08d}.jpg", "val_256/Places365_val_{n:08d}.jpg"),
}
LAYOUTS = [
    *LISTS.values(),
    ("data_256_standard/{cls[0]}/{nested}/{n:08d}.jpg", "val/Places365_val_{n:08d}.jpg"),
    ("data_large_standard/{cls[0]}/{nested}/{n:08d}.jpg", "val_large/Places365_val_{n:08d}.jpg"),
]


def names(form: str, train: bool) -> list[tuple[str, int]]:
    rows, number = [], 0
    for label, cls in enumerate(CLASSES):
        for _ in range(TRAIN[cls] if train else 1):
            number += 1
            rows.append((form.format(cls=cls, nested=cls.replace("-", "/"), n=number), label))
    return rows


def write(root: Path, dialect: str, layout: tuple[str, str]) -> Path:
    """The lists in a dialect, and images in a layout, each of a grey level of its own."""
    for train in (True, False):
        lines = names(LISTS[dialect][not train], train)
        name = f"Places_LT_{'train' if train else 'test'}.txt"
        (root / name).write_text("".join(f"{path} {label}\n" for path, label in lines))
        for number, (path, _) in enumerate(names(layout[not train], train)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * number).save(root / path)
    return root


def load(root: Path, name: str = "Places_LT", **options: object):
    return load_splits(data_args(name, root, new_size=8, crop_size=8, **options), augment=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["A", "B", "torchvision", "large"])
@pytest.mark.parametrize("dialect", LISTS)
def test_every_dialect_finds_every_layout_and_is_the_same_data(dialect, layout, tmp_path):
    splits = load(write(tmp_path, dialect, layout))
    assert splits.train.classes == tuple(CLASSES)
    assert splits.train.class_counts == [4, 2, 1]
    assert splits.train.ids[4] == "train/apartment_building-outdoor/00000005.jpg"
    assert splits.test.ids[1] == "val/apartment_building-outdoor/Places365_val_00000002.jpg"
    for part in (splits.train, splits.test):
        assert [int(part[index][0].float().mean()) for index in range(len(part))] == [10 * n for n in range(len(part))]


def test_published_lists_are_recognised_in_both_dialects(tmp_path, monkeypatch, caplog):
    """As the fingerprints of the published lists say: SHA-256, or git's for a file too large for the other."""
    fingerprints = listed.PLACES_LT_LISTS.fingerprints
    for name, train in (("Places_LT_train.txt", True), ("Places_LT_test.txt", False)):
        lines = names(LISTS["A"][not train], train)
        content = "".join(f"{path} {label}\n" for path, label in lines).encode()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(
            fingerprints, name, f"git {git}" if train else f"sha256 {hashlib.sha256(content).hexdigest()}"
        )
    for dialect in LISTS:
        load(write(tmp_path, dialect, LISTS["A"]))
    assert not any("published" in message for message in caplog.messages)
    path = tmp_path / "Places_LT_test.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    load(tmp_path)
    assert f"{path} is not the published list: results cannot be compared with others'" in caplog.messages


def test_images_by_their_numbers_alone_get_the_folder_of_their_label(tmp_path):
    """ImageNet's validation images lie flat, or in folders, whatever the list says."""
    for name, lines in {
        "ImageNet_LT_train.txt": ["train/n01/n01_1.JPEG 0", "train/n02/n02_1.JPEG 1"],
        "ImageNet_LT_test.txt": ["val/ILSVRC2012_val_1.JPEG 0", "val/ILSVRC2012_val_2.JPEG 1"],
    }.items():
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8-sig")
    images = ("train/n01/n01_1", "train/n02/n02_1", "val/n01/ILSVRC2012_val_1", "val/ILSVRC2012_val_2")
    for path in (f"{image}.JPEG" for image in images):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / path)
    (tmp_path / "names.txt").write_text("n02 great white shark\nn01 tench\n")
    splits = load(tmp_path, "ImageNet_LT", names=str(tmp_path / "names.txt"))
    assert splits.train.classes == ("tench", "great white shark")
    assert splits.test.ids.tolist() == ["val/n01/ILSVRC2012_val_1.JPEG", "val/n02/ILSVRC2012_val_2.JPEG"]
    assert splits.test.files.tolist() == ["val/n01/ILSVRC2012_val_1.JPEG", "val/ILSVRC2012_val_2.JPEG"]


TRAIN_LIST, TEST_LIST = "Places_LT_train.txt", "Places_LT_test.txt"


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (TEST_LIST, None, None, "test.txt cannot be read .*: put the list there, from data/ of .*classifier-balancing"),
        (TRAIN_LIST, "5.jpg 1", "5.jpg", "line 5: .* is not `path label`"),
        (TRAIN_LIST, "5.jpg 1", "5.jpg 2", "do not belong together"),
        (TRAIN_LIST, "train/zen_garden/", "data_256/", "do not belong together"),
        (TRAIN_LIST, " 2", " 4", "the labels are not 0, 1, 2"),
        (TEST_LIST, " 2", " 3", "has label 3, which Places_LT_train.txt has not"),
        (
            TEST_LIST,
            "val/airfield/",
            "val/zen_garden/",
            "test.txt has the folder zen_garden as label 0, which is airfield in Places_LT_train.txt: the two do not",
        ),
        (TRAIN_LIST, "00000002", "00000001", r"names 1 image \(train/airfield/00000001.jpg\) more than once"),
        ("train/zen_garden/00000007.jpg", None, None, r"1 image .*7.jpg\) of 7 not found that are listed in .*: put"),
    ],
)
def test_bad_list_is_one_line(name, old, new, says, tmp_path):
    path = write(tmp_path, "A", LISTS["A"]) / name
    (tmp_path / "data_256").mkdir()
    if old is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_both_data_sets_name_their_lists():
    assert {DATASETS[name].load.keywords["data"].train for name in ("ImageNet_LT", "Places_LT")} == {
        "ImageNet_LT_train.txt",
        "Places_LT_train.txt",
    }
