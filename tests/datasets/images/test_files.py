"""Data sets in files: read through a transform, and light to send to another process."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets.base import SampleKey
from datasets.images.files import FileDataset, missing_files
from datasets.transforms import RandomCropAndFlip, to_tensor
from utils.errors import UserError

NAMES = [f"{number:08d}_000.png" for number in range(6)]


@pytest.fixture
def dataset(tmp_path: Path) -> FileDataset:
    """Six grey images of noise of 40x50."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)).save(tmp_path / name)
    return FileDataset(tmp_path, NAMES, "ab", np.arange(6) % 2, NAMES)


def test_own_transform_is_given_a_pil_image(dataset):
    dataset.transform = T.PILToTensor()
    image, label, index = dataset[3]
    assert (image.shape, label, index) == ((1, 40, 50), 1, 3)
    with Image.open(dataset.path(3)) as original:
        assert np.array_equal(image[0].numpy(), np.asarray(original))


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_transform_takes_the_same_from_file_and_from_pil(dataset, train):
    transform = RandomCropAndFlip(24) if train else to_tensor(T.Resize((32, 32)), 24)
    key = SampleKey(index=2, seed=7, epoch=3, position=11)
    dataset.transform = transform
    direct = dataset[key][0]
    dataset.transform = lambda image: transform(image)
    assert torch.equal(direct, dataset[key][0])


def test_draw_is_a_function_of_the_key(dataset):
    dataset.transform = RandomCropAndFlip(24)
    keys = [SampleKey(2, seed, epoch, position) for seed in (0, 1) for epoch in (0, 1) for position in (0, 1)]
    draws = [[dataset[key][0].numpy().tobytes() for key in keys] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == len(keys)


def test_damage_below_the_crop_is_found_too(dataset):
    dataset.transform = RandomCropAndFlip(24)
    path = dataset.path(2)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    for position in range(5):
        with pytest.raises(UserError, match=rf"{path} cannot be read"):
            dataset[SampleKey(2, 0, 0, position)]


def test_damaged_tiff_of_which_pillow_raises_a_type_error_is_named(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    offsets = content.index((273).to_bytes(2, "little"))  # StripOffsets, whose type, 4 (LONG), becomes 12 (DOUBLE)
    content[offsets + 2] = 12
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        FileDataset(tmp_path, ["a.tif"], "ab", [0], ["a.tif"]).read(0)


def test_data_set_is_sent_to_another_process_without_pixels(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(np.asarray(copy.read(4)), np.asarray(dataset.read(4)))


def test_name_in_an_old_encoding_is_named(tmp_path):
    names = ["a.png", "train/caf\udce9/b.png", "c.png"]  # as Python has what another system wrote as Latin 1
    with pytest.raises(UserError, match=r"the name 'train/caf\\udce9/b\.png', or the locale, is not UTF-8"):
        FileDataset(tmp_path, names, "ab", [0, 1, 0], names)


def test_name_that_an_old_locale_would_distort_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert missing_files(tmp_path, ["a.png"]) == ["a.png"]
    with pytest.raises(UserError, match=r"'\\xc5\\x81/b\.png', or the locale, is not UTF-8: .* LC_ALL=C.UTF-8"):
        missing_files(tmp_path, ["a.png", "\xc5\x81/b.png"])
