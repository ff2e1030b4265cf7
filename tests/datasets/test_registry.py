"""The registry of data sets: what every entry promises."""

import errno
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets import DATASETS
from datasets.splits import load_splits, prepare_data
from helpers.data import data_args, load_part
from helpers.limits import without_privileges
from utils.errors import UserError

SIZES = [(32, 32), (48, 40), (256, 224)]
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
SVHN_TEST = (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595)
MADE_SQUARE_AND_VARIED = {  # by default; digits are not mirrored
    **dict.fromkeys(("CIFAR10", "CIFAR10_LT", "CIFAR100", "CIFAR100_LT"), ("pad", "shift-flip", 1 / 8)),
    **dict.fromkeys(("MNIST_LT", "SVHN", "SVHN_LT"), ("pad", "shift", 1 / 16)),
    "FashionMNIST_LT": ("pad", "shift-flip", 1 / 16),
    "Digits_LT": ("stretch", "shift", 1 / 16),
    "CelebA": ("stretch", "shift-flip", 1 / 16),
    "ChestXray": ("stretch", "resized-crop", None),
    **dict.fromkeys(("ImageNet", "ImageNet_LT", "Places_LT"), ("centre", "resized-crop", None)),
    **dict.fromkeys(("iNaturalist2017", "ImageFolder", "CSV"), ("centre", "resized-crop", None)),
}


@pytest.mark.parametrize(
    ("name", "train_counts", "test_counts"),
    [
        ("Digits_LT", (130, 110, 80, 60, 45, 35, 25, 20, 12, 6), (40,) * 10),
        ("FashionMNIST_LT", (4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40), (1000,) * 10),
        ("MNIST_LT", (4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40), MNIST_TEST),
        ("SVHN", (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659), SVHN_TEST),
        ("SVHN_LT", (4500, 2000, 1000, 800, 600, 500, 400, 250, 150, 80), SVHN_TEST),
        ("CelebA", (15000, 1500, 750, 300, 150), (2660, 5422, 423, 3587, 636)),
        (
            "ChestXray",
            (50500, 3414, 777, 2788, 7327, 1696, 2248, 234, 1241, 829, 397, 587, 551, 817, 65),
            (9861, 801, 316, 1167, 2220, 443, 457, 88, 953, 481, 231, 305, 176, 309, 45),
        ),
    ],
    ids=["Digits_LT", "FashionMNIST_LT", "MNIST_LT", "SVHN", "SVHN_LT", "CelebA", "ChestXray"],
)
def test_published_counts(name, train_counts, test_counts):
    assert DATASETS[name].train_counts == train_counts
    assert DATASETS[name].test_counts == test_counts


@pytest.mark.parametrize("name", DATASETS)
def test_images_are_made_square_and_varied_as_is_usual_for_them(name):
    resize, varied, shift = MADE_SQUARE_AND_VARIED[name]
    spec = DATASETS[name]
    assert (spec.resize, spec.train_transform) == (resize, varied)
    if shift:
        shifts = next(part for part in spec.transform(True, 64, 64).transforms if isinstance(part, T.RandomCrop))
        assert shifts.padding == 64 * shift


def test_order_of_the_chest_xray_classes():
    assert DATASETS["ChestXray"].classes == (
        *("No Finding", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
        *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
    )


@pytest.mark.parametrize("name", DATASETS)
def test_a_class_has_one_name_and_one_count_per_split(name):
    info = DATASETS[name]
    assert len(set(info.classes)) == len(info.classes) == len(info.train_counts) == len(info.test_counts)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("new_size", "crop_size"), SIZES)
def test_every_transform_gives_uint8_of_the_crop_size(name, train, new_size, crop_size):
    image = Image.fromarray(np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8))
    pixels = DATASETS[name].transform(train, new_size, crop_size)(image)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, crop_size, crop_size)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("train", [True, False])
def test_only_the_training_transform_draws(name, train):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))
    transform = DATASETS[name].transform(train, 64, 56)
    distinct = {transform(image).numpy().tobytes() for _ in range(10)}
    assert (len(distinct) > 1) is train


@pytest.mark.parametrize("name", ["ChestXray", "FashionMNIST_LT"])
@pytest.mark.parametrize("train", [True, False])
def test_a_folder_that_is_not_there_or_is_none_is_named(name, train, tmp_path):
    with pytest.raises(UserError, match=rf"--datadir {tmp_path}/none does not exist: name the folder"):
        load_part(name, tmp_path / "none", train)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"--datadir {tmp_path}/file is no folder: name the folder"):
        load_part(name, tmp_path / "file", train)


@pytest.mark.parametrize("name", ["ImageFolder", "CSV", "CelebA", "iNaturalist2017", "ImageNet_LT"])
def test_folder_on_a_disk_that_does_not_answer_is_named(name, tmp_path, monkeypatch):
    def stale(place: str | Path) -> NoReturn:
        raise OSError(errno.ESTALE, "Stale file handle", str(place))

    monkeypatch.setattr(os, "scandir", stale)
    with pytest.raises(UserError, match=rf"--datadir {tmp_path} cannot be read \(Stale file handle\): see its perm"):
        load_splits(data_args(name, tmp_path, csv="labels.csv" if DATASETS[name].table else None))


@pytest.mark.parametrize(
    ("closed", "mode"), [(".", 0o000), (".", 0o444), ("data", 0o000), ("data", 0o444), ("data", 0o111)]
)
@pytest.mark.parametrize("name", ["ChestXray", "FashionMNIST_LT"])
def test_folder_that_may_not_be_looked_into_is_named(name, closed, mode):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        folder = Path(place) / "data"
        folder.mkdir()
        Path(place).chmod(0o755)
        (Path(place) / closed).chmod(mode)
        args = data_args(name, folder)
        try:
            for way in (load_splits, prepare_data) if DATASETS[name].prepare else (load_splits,):
                with without_privileges(), pytest.raises(UserError, match="cannot be read .Permission denied") as error:
                    way(args)
                assert str(folder) in str(error.value)
        finally:
            (Path(place) / closed).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *(("CIFAR10_LT", "cifar-10-batches-py"), ("FashionMNIST_LT", "FashionMNIST/raw"), ("CelebA", "celeba")),
        *(("iNaturalist2017", "train_val2017"), ("ImageNet_LT", "train/n01"), ("CSV", "photos")),
    ],
)
def test_folder_in_it_that_may_not_be_looked_into_is_named(name, inside):
    """Instead of a download, or the advice to unpack again what is there."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        folder = Path(place) / inside
        folder.mkdir(parents=True)
        (folder / "1.JPEG").touch()
        lines = "train/n01/1.JPEG 0\ntrain/n02/1.JPEG 1\n"
        for file, text in (
            *((f"ImageNet_LT_{part}.txt", lines) for part in ("train", "test")),
            ("labels.csv", "path,label\nphotos/1.JPEG,cat\nphotos/2.JPEG,dog\n"),
        ):
            (Path(place) / file).write_text(text)
        folder.chmod(0)
        try:
            args = data_args(name, place, csv=f"{place}/labels.csv" if DATASETS[name].table else None)
            with without_privileges(), pytest.raises(UserError, match=rf"{folder} cannot be read .Permission denied"):
                load_splits(args)
        finally:
            folder.chmod(0o755)
