"""ChestXray: lists, labels and images of NIH ChestX-ray14 in the layouts in which people have them."""

import csv
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.chestxray import CHESTXRAY, CLASSES
from datasets.chestxray.lists import read_contents
from helpers.data import data_args
from helpers.project import HEADER_2017
from utils.errors import UserError

HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)
LABELS, TRAIN_LIST, TEST_LIST = "Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"


def load(folder: Path, train: bool = True):
    splits = CHESTXRAY.load(data_args("ChestXray", folder))
    return splits.train if train else splits.test


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(("train", "each"), [(True, 3), (False, 1)])
def test_lists_and_labels_give_the_splits_without_multi_label_rows(train, each, chest_folder):
    data = load(chest_folder, train)
    assert data.class_counts == [each] * 15
    assert data.classes == CLASSES
    assert "00000900_000.png" not in data.ids


def test_counts_need_no_image(chest, monkeypatch):
    for path in chest.rglob("*.png"):
        path.write_bytes(b"")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    assert load(chest).class_counts == [3] * 15
    assert load(chest, train=False).class_counts == [1] * 15


def test_image_label_and_id_belong_together(chest_folder):
    with (chest_folder / LABELS).open(newline="") as file:
        labels = {row[0]: row[1] for row in csv.reader(file)}
    data = load(chest_folder)
    part = data.subset(np.array([40, 3, 17]))
    for index in range(3):
        image, label, _ = part[index]
        assert CLASSES[label] == labels[part.ids[index]]
        with Image.open(chest_folder / "images" / part.ids[index]) as original:
            assert np.array_equal(np.asarray(image), np.asarray(original.convert("L")))


def test_the_final_line_of_a_list_counts_without_a_newline(chest_folder):
    text = (chest_folder / TRAIN_LIST).read_text()
    assert not text.endswith("\n")
    last_single_label = [name for name in text.split() if name < "00000900"][-1]
    assert load(chest_folder).ids[-1] == last_single_label
    assert load(chest_folder, train=False).ids[-1] == (chest_folder / TEST_LIST).read_text().split("\n")[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
def test_lists_and_labels_may_come_from_any_editor(newline, encoding, chest, chest_folder):
    for name in (TRAIN_LIST, LABELS):
        text = (chest / name).read_text()
        (chest / name).write_bytes((text.rstrip("\n").replace("\n", newline) + newline).encode(encoding))
    assert load(chest).fingerprint() == load(chest_folder).fingerprint()


def test_groups_are_the_patients(chest):
    names = (chest / TRAIN_LIST).read_text().split()[:3]
    renamed = ["00000813_000.png", "00000813_021.png", "00030805_000.png"]
    for old, new in zip(names, renamed, strict=True):
        (chest / "images" / old).rename(chest / "images" / new)
        for file in (TRAIN_LIST, LABELS):
            edit(chest / file, lambda text, old=old, new=new: text.replace(old, new))
    assert load(chest).groups[:3].tolist() == [813, 813, 30805]


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
@pytest.mark.parametrize("header", [HEADER_2017, HEADER_2020, "a,b,c"], ids=["2017", "2020", "other"])
@pytest.mark.parametrize("trailing", [True, False], ids=["final comma", "no final comma"])
def test_labels_are_read_by_position(name, header, trailing, chest, chest_folder):
    lines = (chest / LABELS).read_text().splitlines()[1:]
    (chest / LABELS).unlink()
    (chest / name).write_text("\n".join([header, *(line if trailing else line.rstrip(",") for line in lines)]))
    assert load(chest).fingerprint() == load(chest_folder).fingerprint()


@pytest.mark.parametrize(
    "layout",
    ["", "images", "images_{:03d}", "images_{:03d}/images", "images/images_{:03d}", "image_{:03d}", "data/Images"],
    ids=["flat", "one folder", "twelve folders", "as unpacked", "nested", "another name", "another place"],
)
def test_images_are_found_in_every_layout(layout, chest, chest_folder):
    moved = chest / "moved"
    (chest / "images").rename(moved)
    for number, path in enumerate(sorted(moved.iterdir())):
        folder = chest / layout.format(number % 12 + 1)
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    moved.rmdir()
    (chest / "images_001.tar.gz").write_bytes(b"an archive beside")
    for train in (True, False):
        data, expected = load(chest, train), load(chest_folder, train)
        assert data.fingerprint() == expected.fingerprint()
        assert all(np.array_equal(data[index][0], expected[index][0]) for index in range(0, len(data), 7))


def test_images_in_another_case_or_format_are_read_and_the_format_is_told(chest, chest_folder):
    first, second, *_ = sorted((chest / "images").iterdir())
    first.rename(first.with_suffix(".PNG"))
    with Image.open(second) as image:
        image.convert("L").save(second.with_suffix(".bmp"))
    second.unlink()
    data, expected = load(chest), load(chest_folder)
    assert data.fingerprint() == expected.fingerprint()
    assert all(np.array_equal(data[index][0], expected[index][0]) for index in (0, 1))
    assert read_contents(chest).remarks == [
        f"{chest}: 1 image (images/{second.stem}.bmp) in another format than NIH's: read as they are"
    ]


def test_of_what_is_there_twice_the_first_counts_and_it_is_told_where_they_differ(chest, chest_folder):
    shutil.copytree(chest / "images", chest / "backup")
    assert read_contents(chest).remarks == []
    names = load(chest).ids[:2].tolist()
    (chest / "backup" / names[0]).write_bytes(b"")
    edit(chest / TRAIN_LIST, lambda text: f"{text}\n{names[1]}")
    assert load(chest).fingerprint() == load(chest_folder).fingerprint()
    listed, twice = read_contents(chest).remarks
    assert listed == f"{chest / TRAIN_LIST} names 1 image ({names[1]}) twice: each counts once"
    assert twice.endswith(f"there twice and not the same, images/{names[0]} and backup/{names[0]}: the first is read")
    (chest / "backup" / names[0]).unlink()
    (chest / "backup" / names[0]).symlink_to("gone")
    assert read_contents(chest).remarks == [listed]


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (1, r"1 image \(00000001_000.png\) of 45 listed not found: unpack"),
        (3, r"3 images \(00000001_000.png, 00000002_000.png, 00000003_000.png\) of 45 listed not found"),
        (4, r"4 images \(00000001_000.png, 00000002_000.png, 00000003_000.png, ...\) of 45 listed not found"),
        (45, r"45 images \(00000001_000.png, 00000002_000.png, 00000003_000.png, ...\) of 45 listed not found"),
    ],
    ids=["one", "three", "four", "all"],
)
def test_missing_images_are_counted_and_the_first_named(count, says, chest):
    for name in load(chest).ids[:count]:
        (chest / "images" / name).unlink()
    with pytest.raises(UserError, match=says):
        load(chest)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / LABELS).unlink(), "has no Data_Entry_2017_v2020.csv or Data_Entry_2017.csv: put"),
        (
            lambda folder: (folder / LABELS).write_bytes(b"\xff\xfe\x00a,b"),
            r"Data_Entry_2017.csv cannot be read \(it is UTF-16\): save it as UTF-8, or replace",
        ),
        (
            lambda folder: (folder / LABELS).write_text(""),
            "train_val_list.txt: 47 images .* without a row in the label",
        ),
        (lambda folder: (folder / TRAIN_LIST).unlink(), "train_val_list.txt cannot be read .*: put NIH's list there"),
        (
            lambda folder: (folder / TRAIN_LIST).write_bytes(b"\xff\xfe"),
            "list.txt cannot be read .it is UTF-16.*, or put",
        ),
        (lambda folder: (folder / TRAIN_LIST).write_text("\n"), "train_val_list.txt is empty: put NIH's list there"),
        (
            lambda folder: edit(folder / LABELS, lambda text: text.replace("Hernia", "Hernias")),
            "the label file names 'Hernias', which is none of the 15 classes",
        ),
        (
            lambda folder: edit(folder / LABELS, lambda text: f"{text}00000001_000.png,Mass\n"),
            r"Data_Entry_2017.csv gives 1 image \(00000001_000.png\) two labels, .* 'No Finding' and 'Mass': keep",
        ),
        (
            lambda folder: (folder / "Data_Entry_2017_v2020.csv").write_text(
                (folder / LABELS).read_text().replace("00000001_000.png,No Finding", "00000001_000.png,Hernia")
            ),
            r"v2020.csv and Data_Entry_2017.csv have not the same label for 1 image \(00000001_000.png\): keep one of",
        ),
        (
            lambda folder: edit(folder / TRAIN_LIST, lambda text: f"{text}\n00031000_000.png"),
            r"train_val_list.txt: 1 image \(00031000_000.png\) without a row in the label file: replace",
        ),
        (
            lambda folder: [
                edit(folder / file, lambda text: text.replace("00000001_000", "scan")) for file in (TRAIN_LIST, LABELS)
            ],
            r"train_val_list.txt: 'scan.png' is no image name of ChestX-ray14",
        ),
    ],
    ids=[
        *("no-label-file", "unreadable-labels", "empty-labels", "no-list", "unreadable-list", "empty-list"),
        *("unknown-class", "two-labels", "two-label-files", "image-without-label", "no-patient"),
    ],
)
def test_what_is_wrong_with_the_folder_is_named(spoil, says, chest):
    spoil(chest)
    with pytest.raises(UserError, match=says):
        load(chest)


@pytest.mark.parametrize("line", ['"00000001_000.png"', "images/00000001_000.png", "00000001_000", "Image Index"])
def test_line_of_a_list_that_is_no_image_name_is_named_not_looked_for_in_the_archives(line, chest):
    edit(chest / TRAIN_LIST, lambda text: f"{line}\n{text}")
    with pytest.raises(UserError, match=rf"train_val_list.txt: {line!r} is no image name .*: put NIH's list there"):
        read_contents(chest)


def test_missing_test_list_is_named(chest):
    (chest / TEST_LIST).unlink()
    with pytest.raises(UserError, match=r"test_list.txt cannot be read .*: put NIH's list there"):
        load(chest, train=False)


def test_image_that_is_gone_is_named_when_it_is_read(chest):
    data = load(chest)
    (chest / "images" / data.ids[4]).unlink()
    with pytest.raises(UserError, match=rf"{data.ids[4]} cannot be read \(.*No such file.*\): replace it"):
        data[4]


def test_reading_leaves_no_file_open(chest_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        data = load(chest_folder)
        assert len([data[index] for index in range(len(data))]) == len(data)
