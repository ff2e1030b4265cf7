"""The splits of a run: held-out part, transforms, and classes that would be empty."""

import csv
import dataclasses
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import DATASETS
from datasets.base import ArrayDataset
from datasets.images.files import FileDataset
from datasets.images.inspection import warn_of_grey_levels
from datasets.images.unlabelled import UnlabelledImages
from datasets.splits import (
    Splits,
    absent,
    load_splits,
    load_test,
    log_images,
    prepare_data,
    warn_of_overlap,
    warn_of_part,
)
from helpers.data import data_args
from utils.errors import UserError
from utils.preprocessing import Preprocessing


def digits(augment: bool = True, **options: object) -> Splits:
    return load_splits(data_args("Digits_LT", **options), augment)


def varies(dataset: object) -> bool:
    """Whether ten uses of the first image differ."""
    return len({dataset[0][0].numpy().tobytes() for _ in range(10)}) > 1


def relabel(folder: Path, change: dict[str, str]) -> None:
    """Replace labels in the label file."""
    path = folder / "Data_Entry_2017.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([row[0], change.get(row[1], row[1]), *row[2:]] for row in rows)


def test_without_a_hold_out_the_test_split_is_measured():
    splits = digits()
    assert tuple(splits.train.class_counts) == DATASETS["Digits_LT"].train_counts
    assert splits.val is None
    assert splits.measured == ("test", splits.test)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_hold_out_comes_out_of_the_training_split_alone(fraction):
    whole, splits = digits(), digits(val_fraction=fraction)
    assert splits.val.class_counts == [max(round(fraction * count), 1) for count in whole.train.class_counts]
    assert sorted([*splits.train.ids, *splits.val.ids]) == sorted(whole.train.ids)
    assert splits.test.fingerprint() == whole.test.fingerprint()
    assert splits.measured == ("val", splits.val)


def test_subset_seed_draws_the_subset_and_the_hold_out():
    parts = [digits(val_fraction=0.2, subset_seed=seed) for seed in (0, 0, 1)]
    prints = [(part.train.fingerprint(), part.val.fingerprint()) for part in parts]
    assert prints[0] == prints[1]
    assert not set(prints[0]) & set(prints[2])


def test_balanced_validation_set_comes_out_of_what_the_training_images_leave_over():
    whole, splits = digits(), digits(val_per_class=8)
    assert splits.train.rows.tolist() == whole.train.rows.tolist()
    assert splits.train.fingerprint() == whole.train.fingerprint()
    assert splits.val.class_counts == [8] * 10
    assert not np.isin(splits.val.ids, [*whole.train.ids, *whole.test.ids]).any()
    assert splits.measured == ("val", splits.val)
    assert not varies(splits.val)
    assert digits(val_per_class=8).val.fingerprint() == splits.val.fingerprint()
    assert digits(val_per_class=8, subset_seed=1).val.fingerprint() != splits.val.fingerprint()


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        ("Digits_LT", {"val_per_class": 9}, "--val-per-class 9: the training images leave 8 of class 0 over: give at "),
        ("ChestXray", {"val_per_class": 1}, "--val-per-class 1: ChestXray is not drawn from a larger pool"),
        ("CIFAR10", {"val_per_class": 1}, "--val-per-class 1: CIFAR10 is not drawn from a larger pool"),
    ],
)
def test_validation_set_for_which_there_are_no_images_is_refused(dataset, options, says):
    with pytest.raises(UserError, match=f"{says}.*--val-fraction"):
        load_splits(data_args(dataset, **options))


@pytest.mark.parametrize("augment", [True, False])
def test_only_training_images_are_augmented_and_only_if_asked(augment):
    splits = digits(val_fraction=0.2, augment=augment)
    assert varies(splits.train) is augment
    assert not varies(splits.val)
    assert not varies(splits.test)
    assert {part[0][0].shape for part in splits} == {torch.Size([1, 28, 28])}


def test_no_patient_of_chest_xray_is_on_both_sides(chest):
    names = (chest / "train_val_list.txt").read_text().split()[:45]
    for number, name in enumerate(names):  # the three images of a class are of patients number, number, number + 100
        new = f"{number // 3 + 100 * (number % 3 == 2) + 1000:08d}_{number % 3:03d}.png"
        (chest / "images" / name).rename(chest / "images" / new)
        for file in (chest / "train_val_list.txt", chest / "Data_Entry_2017.csv"):
            file.write_text(file.read_text().replace(name, new))
    splits = load_splits(data_args("ChestXray", chest, val_fraction=0.34))
    assert splits.val.class_counts == [1] * 15
    assert splits.train.class_counts == [2] * 15
    assert not np.intersect1d(splits.train.groups, splits.val.groups).size


@pytest.mark.parametrize("fraction", [0.0, 0.34])
def test_class_without_a_training_image_is_named(fraction, chest):
    relabel(chest, {"Hernia": "Mass|Nodule", "Edema": "Mass|Nodule"})
    with pytest.raises(UserError, match=r"no training image of class Edema, Hernia in .*: every class needs"):
        load_splits(data_args("ChestXray", chest, val_fraction=fraction))


@pytest.mark.parametrize(
    ("file", "says"),
    [("train_val_list.txt", "no training image of class No Finding, .*Hernia"), ("test_list.txt", "has no test image")],
    ids=["training", "test"],
)
def test_list_with_multi_label_rows_alone_is_an_error(file, says, chest):
    (chest / file).write_text("00000900_000.png\n00000901_000.png")
    with pytest.raises(UserError, match=says):
        load_splits(data_args("ChestXray", chest, val_fraction=0.2))


def test_class_without_a_test_image_is_named(chest, caplog):
    with (chest / "Data_Entry_2017.csv").open(newline="") as file:
        hernias = {row[0] for row in csv.reader(file) if row[1] == "Hernia"}
    listed = chest / "test_list.txt"
    caplog.set_level("WARNING", "dgcmm")
    load_splits(data_args("ChestXray", chest))
    assert not caplog.messages
    listed.write_text("\n".join(name for name in listed.read_text().split() if name not in hernias) + "\n")
    load_splits(data_args("ChestXray", chest))
    assert caplog.messages == ["no test image of class Hernia: left out of auc, recall 0 in the means"]
    load_splits(data_args("ChestXray", chest, val_fraction=0.34))
    assert caplog.messages[1:] == caplog.messages[:1]  # the result is of the test, whatever is measured before


def test_classes_of_one_image_cannot_be_held_out(chest):
    names = (chest / "train_val_list.txt").read_text().split()[:45]
    (chest / "train_val_list.txt").write_text("\n".join(names[::3]))
    with pytest.raises(UserError, match=r"--val-fraction 0.5: nothing can be held out of 15 training images"):
        load_splits(data_args("ChestXray", chest, val_fraction=0.5))


def test_dummy_needs_no_files_and_has_the_counts_of_the_data_set():
    splits = load_splits(data_args("FashionMNIST_LT", "not/there", dummy=True, val_fraction=0.1))
    assert np.array_equal(
        np.add(splits.train.class_counts, splits.val.class_counts), DATASETS["FashionMNIST_LT"].train_counts
    )
    assert tuple(splits.test.class_counts) == DATASETS["FashionMNIST_LT"].test_counts
    assert splits.train[0][0].shape == (1, 28, 28)
    assert varies(splits.train)
    balanced = load_splits(data_args("FashionMNIST_LT", "not/there", dummy=True, val_per_class=5))
    assert balanced.val.class_counts == [5] * 10
    assert tuple(balanced.train.class_counts) == DATASETS["FashionMNIST_LT"].train_counts


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_spread_cuts_every_part_and_keeps_every_class(fraction):
    splits = digits(val_fraction=fraction).spread(25)
    assert (splits.val is None) is (fraction == 0)
    for part in filter(None, splits):
        assert len(part) == 25
        assert min(part.class_counts) >= 1


def test_manifest_for_a_data_set_without_files_to_bring_is_refused():
    with pytest.raises(UserError, match="--dataset-manifest: Digits_LT has no list"):
        prepare_data(data_args("Digits_LT", dataset_manifest="x.json"))


def test_dummy_images_are_not_brought():
    prepare_data(data_args("ChestXray", "not/there", dummy=True, dataset_manifest="x.json"))
    assert not Path("not").exists()


def test_patients_and_images_in_both_lists_are_told(chest, caplog):
    listed = (chest / "train_val_list.txt").read_text().split()
    with (chest / "test_list.txt").open("a") as file:
        file.write(f"\n{listed[0]}\n{listed[1]}")
    new = listed[2].replace("_000", "_001")  # another image of a training patient
    shutil.copy(chest / "images" / listed[2], chest / "images" / new)
    with (chest / "test_list.txt").open("a") as file:
        file.write(f"\n{new}")
    with (chest / "Data_Entry_2017.csv").open("a") as file:
        file.write(f"{new},Mass\n")
    caplog.set_level("WARNING", "dgcmm")
    splits = load_splits(data_args("ChestXray", chest))
    assert caplog.messages == [
        f"3 images ({listed[0]}, {listed[1]}, {new}) of 18 in the test split are of groups (patients) that training "
        "has too, 2 of them are in both lists: what is measured on them is too good, mend the lists"
    ]
    caplog.clear()
    alone = splits.train.subset(np.arange(2))
    alone.groups = None
    warn_of_overlap(alone, splits.test)
    assert caplog.messages[0].startswith(f"2 images ({listed[0]}, {listed[1]}) of 18 in the test split")


def test_many_classes_without_an_image_are_named_in_one_line():
    names = [f"kind {number}" for number in range(50)]
    data = ArrayDataset(np.zeros((25, 1, 1), np.uint8), names, np.arange(25), range(25))
    assert absent(data) == ", ".join(names[25:45]) + ", ... (25 in all)"


@pytest.mark.parametrize(
    ("counts", "classes", "imbalance"),
    [
        (
            [20, 404, 19, 101, 100, 50],
            "c0 20, c1 404, c2 19, c3 101, c4 100, c5 50",
            "6 classes, largest c1 404, smallest c2 19, ratio 21.26; 2 many, 3 median, 1 low",
        ),
        (
            [*range(1, 13), 300, *range(13, 25)],
            "c12 300, c24 24, c23 23, c22 22, c21 21, c20 20, c19 19, c18 18, c17 17, "
            "c16 16, ..., c9 10, c8 9, c7 8, c6 7, c5 6, c4 5, c3 4, c2 3, c1 2, "
            "c0 1",
            "25 classes, largest c12 300, smallest c0 1, ratio 300; 1 many, 5 median, 19 low",
        ),
    ],
    ids=["few", "many"],
)
def test_log_says_how_many_images_each_class_has_and_how_unequal_they_are(counts, classes, imbalance, caplog):
    targets = np.repeat(np.arange(len(counts)), counts)
    data = ArrayDataset(
        np.zeros((len(targets), 1, 1), np.uint8), [f"c{n}" for n in range(len(counts))], targets, targets
    )
    caplog.set_level("INFO", "dgcmm")
    log_images(Splits(data, data.subset([0, 1]), data.subset([0, 1, 2])), "Mine")
    assert caplog.messages == [
        f"Mine: {len(data)} training images, 2 held out, 3 test images",
        f"images per class: {classes}",
        f"imbalance: {imbalance}",
    ]


@pytest.mark.parametrize(
    ("largest", "says"),
    [
        (255, []),
        (65535, []),
        (4080, ["8 of 8 training images looked at have 16 bits and no value above 4095: read as 12 bits"]),
        (16383, ["the training images are almost black: the brightest value of 8 is 64 of 255"]),
        (15, ["the training images are almost black: the brightest value of 8 is 15 of 255"]),
    ],
)
def test_grey_levels_that_nobody_meant_are_told(largest, says, tmp_path, caplog):
    pixels = np.linspace(0, largest, 64).reshape(8, 8).astype(np.uint16 if largest > 255 else np.uint8)
    names = [f"{number}.png" for number in range(20)]
    for name in names:
        Image.fromarray(pixels).save(tmp_path / name)
    data = FileDataset(tmp_path, names, "ab", np.arange(20) % 2, names)
    warn_of_grey_levels(data, "training")
    assert [message.partition(": look at")[0] for message in caplog.messages] == says
    caplog.clear()
    photographs = FileDataset(tmp_path, names, "ab", np.arange(20) % 2, names, colour=True)
    warn_of_grey_levels(photographs, "training")
    assert [message.partition(": look at")[0] for message in caplog.messages] == says
    for name in names:
        (tmp_path / name).write_bytes(b"damaged")
    caplog.clear()
    warn_of_grey_levels(data, "training")  # who reads them all says that
    assert caplog.messages == []


@pytest.mark.parametrize("pixel", [(0, 0, 255, 255), (0, 0, 0, 0)], ids=["blue alone", "black on nothing"])
def test_photographs_are_looked_at_as_they_are_read(pixel, tmp_path, caplog):
    Image.new("RGBA", (8, 8), pixel).save(tmp_path / "0.png")
    data = FileDataset(tmp_path, ["0.png"], "a", np.zeros(1, dtype=int), ["0.png"], colour=True)
    warn_of_grey_levels(data, "training")
    assert caplog.messages == []


NAMES = "black cat\tPanther\nblack dog\tWolf\nwhite cow\tCow\n"


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["test/white cow"], [2]),
        (["test/white cow", "test/black dog"], [1, 2]),
        (["train/black cat", "test/white cow"], [2]),
        (["white cow"], [2]),
    ],
)
def test_model_with_names_is_measured_on_images_of_some_of_its_classes(folders, found, tmp_path):
    write_names = tmp_path / "names.txt"
    write_names.write_text(NAMES)
    for place in (tmp_path / "data" / folder / f"{n}.png" for folder in folders for n in range(4)):
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(str(place))).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    args = data_args("ImageFolder", tmp_path / "data", names=str(write_names))
    data = load_test(args, ("Panther", "Wolf", "Cow"), Preprocessing(True, "stretch", 0, 8, 8))
    assert sorted(set(data.targets.tolist())) == found
    assert data.classes == ("Panther", "Wolf", "Cow")


def test_new_images_are_numbered_as_the_models_classes_whether_or_not_names_can_be_given(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "ImageFolder", dataclasses.replace(DATASETS["ImageFolder"], takes_names=False))
    (tmp_path / "test" / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "dog" / "1.png")
    data = load_test(data_args("ImageFolder", tmp_path), ("cat", "dog", "cow"), Preprocessing(True, "stretch", 0, 8, 8))
    assert (data.classes, data.targets.tolist()) == (("cat", "dog", "cow"), [1])


def test_class_whose_accent_is_stored_in_another_form_than_the_models_is_told(tmp_path):
    place = tmp_path / "test" / "cafe\u0301" / "1.png"
    place.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place)
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9': the accent is stored in two forms"):
        load_test(data_args("ImageFolder", tmp_path), ("caf\u00e9", "b"), Preprocessing(True, "stretch", 0, 8, 8))


def data_set_in_memory(monkeypatch, images: np.ndarray, colour: bool) -> None:
    """Put images of the classes 0 and 1 in the place of Digits_LT; its entry says whether they are in colour."""
    data = ArrayDataset(images, ("0", "1"), np.arange(len(images)) % 2, [f"i{n}" for n in range(len(images))])
    entry = dataclasses.replace(DATASETS["Digits_LT"], load=lambda args: Splits(data, None, data), colour=colour)
    monkeypatch.setitem(DATASETS, "Digits_LT", entry)


@pytest.mark.parametrize("resize", ["stretch", "centre", "pad"])
@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("cache_size", [0, 20])
def test_foreign_images_are_measured_as_they_are_predicted(resize, colour, cache_size, tmp_path, monkeypatch):
    """A model of one data set measured on the images of another: what counts is how the model saw its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    path = tmp_path / "test" / "cat" / "wide.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path)
    args = data_args("ImageFolder", datadir=str(tmp_path))
    preprocessing = Preprocessing(colour, resize, cache_size, 16, 12)
    data = load_test(args, ("cat", "dog"), preprocessing)
    with Image.open(path) as image:
        expected = preprocessing(image)
    assert torch.equal(data[0][0].float() / 255, expected)
    for images in (pixels, pixels[:, :, 0]):  # in colour, in grey
        data_set_in_memory(monkeypatch, images[None], images.ndim == 3)
        data = load_test(data_args("Digits_LT"), ("0", "1"), preprocessing)
        Image.fromarray(images).save(tmp_path / "image.png")
        predicted, _ = UnlabelledImages([str(tmp_path / "image.png")], preprocessing)[0]
        assert torch.equal(data[0][0], predicted)


@pytest.mark.parametrize("resize", ["stretch", "centre", "pad"])
@pytest.mark.parametrize(("of_training", "given"), [(20, 20), (0, 16)])
def test_cache_of_foreign_images_is_of_the_side_that_those_of_the_training_had_first(
    of_training, given, resize, tmp_path
):
    """Any other would change the pixels that the model sees."""
    (tmp_path / "test/cat").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "test/cat/wide.png")
    preprocessing = Preprocessing(True, resize, of_training, 16, 12)
    data = load_test(data_args("ImageFolder", tmp_path, cache_size=given), ("cat", "dog"), preprocessing)
    with Image.open(tmp_path / "test/cat/wide.png") as image:
        assert torch.equal(data[0][0].float() / 255, preprocessing(image))
    with pytest.raises(UserError, match=f"--cache-size 24: the images of the training were first resized to {given}, "):
        load_test(data_args("ImageFolder", tmp_path, cache_size=24), ("cat", "dog"), preprocessing)


def test_folder_of_a_checkpoint_that_is_not_there_is_not_made(tmp_path):
    args = data_args("ChestXray", tmp_path / "gone", resume="run/checkpoint.pth")
    with pytest.raises(UserError, match=r"gone is not there: name the folder of the data of run/checkpoint.pth"):
        prepare_data(args, may_be_new=False)
    assert not (tmp_path / "gone").exists()
    prepare_data(data_args("Digits_LT", tmp_path / "gone", resume="x"), may_be_new=False)  # which needs no folder


@pytest.mark.parametrize(("colour", "shape"), [(True, (4, 8, 8)), (False, (4, 8, 8, 3))])
def test_data_set_whose_entry_has_other_channels_than_its_images_is_named(colour, shape, monkeypatch):
    data_set_in_memory(monkeypatch, np.zeros(shape, np.uint8), colour)
    with pytest.raises(UserError, match=f"Digits_LT: its images are of mode .*, and its DatasetSpec .*colour={colour}"):
        digits()


def test_data_set_without_a_training_image_is_named(monkeypatch):
    data = ArrayDataset(np.zeros((2, 8, 8), np.uint8), ("0", "1"), np.arange(2), ["i0", "i1"])
    entry = dataclasses.replace(DATASETS["Digits_LT"], load=lambda args: Splits(data.subset([]), None, data))
    monkeypatch.setitem(DATASETS, "Digits_LT", entry)
    with pytest.raises(UserError, match="no training image of class 0"):
        digits()


def test_file_that_a_data_set_misses_is_named(tmp_path, monkeypatch):
    spec = dataclasses.replace(DATASETS["Digits_LT"], load=lambda args: np.load(f"{args.datadir}/train_images.npy"))
    monkeypatch.setitem(DATASETS, "Digits_LT", spec)
    with pytest.raises(UserError, match="No such file.*train_images.npy.*: name the folder of Digits_LT with --datad"):
        load_splits(data_args("Digits_LT", tmp_path))


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.imbalance])
def test_imbalance_that_cannot_be_is_refused_before_a_download(name):
    with pytest.raises(UserError, match="--imbalance-factor 100000 leaves no image of the smallest class"):
        data_args(name, imbalance_factor=1e5)


@pytest.mark.parametrize(
    ("max_steps", "told"),
    [(None, []), (25, []), (24, ["240 of 241 test"]), (2, ["20 of 30 val", "20 of 241 test"])],
)
def test_splits_that_are_not_measured_whole_are_told(max_steps, told, caplog):
    args = Namespace(max_steps=max_steps, batch_size=5)
    warn_of_part(args, {"train": range(1000), "val": range(30), "test": range(241)}, nodes=2)
    warn_of_part(args, {"train": range(1000), "val": None}, nodes=2)
    assert caplog.messages == [f"--max-steps {max_steps}: {part} images are measured" for part in told]


def test_images_that_were_chosen_are_counted(caplog):
    """At least one of each class is, so there may be more than the steps have."""
    args, taken = Namespace(max_steps=1, batch_size=5), {"train": range(10), "val": None, "test": range(10)}
    warn_of_part(args, {"train": range(1000), "val": None, "test": range(241)}, taken=taken)
    assert caplog.messages == ["--max-steps 1: 10 of 241 test images are measured"]
