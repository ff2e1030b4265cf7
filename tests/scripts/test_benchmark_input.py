"""The benchmark of reading: what it compares is the same work, and it gives a ratio for each way."""

import argparse

import pytest
import torch
from torch.utils.data import DataLoader

from datasets.images.files import FileDataset
from datasets.transforms import RandomCropAndFlip
from scripts.benchmarks import input as benchmark


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIDE": 64, "CROP": 24, "CACHE": 32, "CACHED": 8}.items():
        monkeypatch.setattr(benchmark, name, value)


def test_each_way_has_a_ratio_and_its_target(small):
    parser = argparse.ArgumentParser()
    benchmark.add_flags(parser)
    options = parser.parse_args(["--input-images=4"])
    options.repeats = 2
    threads = torch.get_num_threads()
    files, cache = benchmark.measure(options)
    assert (files.target, files.at_least, cache.target, cache.at_least) == (2.0, True, 20.0, True)
    assert files.ratio > 0
    assert cache.ratio > 0
    assert torch.get_num_threads() == threads


def test_ways_end_in_a_batch_of_the_same_size_and_passes_in_other_crops(small, tmp_path):
    few, many = benchmark._write_images(tmp_path, 4)
    assert len(many) == 8
    release = next(iter(DataLoader(benchmark._Release([tmp_path / name for name in few]), batch_size=4)))
    data = FileDataset(tmp_path, few, ["one"], torch.zeros(4), few, RandomCropAndFlip(24))
    one_pass = benchmark._passes(data)
    (first,), (second,) = one_pass(), one_pass()
    assert (release[0].shape, release[0].dtype) == ((4, 3, 24, 24), torch.float32)
    assert (first[0].shape, first[0].dtype) == ((4, 1, 24, 24), torch.uint8)
    assert not torch.equal(first[0], second[0])


def test_images_have_the_size_of_x_rays(tmp_path):
    few, _ = benchmark._write_images(tmp_path, 1)
    assert 450_000 < (tmp_path / few[0]).stat().st_size < 550_000
