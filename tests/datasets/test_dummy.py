"""The random images of --dummy."""

import numpy as np
import pytest
import torch

from datasets import DATASETS
from datasets.base import Splits
from datasets.dummy import DummyDataset
from datasets.splits import load_splits
from helpers.data import data_args


def dummy(name: str, **options: object) -> Splits:
    return load_splits(data_args(name, "not/there", dummy=True, **options))


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.classes])
def test_classes_and_counts_are_those_of_the_data_set(name):
    spec, splits = DATASETS[name], dummy(name)
    for part, counts in ((splits.train, spec.train_counts), (splits.test, spec.test_counts)):
        assert part.classes == spec.classes
        assert tuple(part.class_counts) == counts
        assert len(set(part.ids)) == len(part)


@pytest.mark.parametrize("colour", [True, False])
def test_image_of_a_row_repeats_and_rows_differ(colour):
    data, again = (DummyDataset("abc", (3, 2, 1), colour) for _ in range(2))
    assert np.array_equal(data[5][0], again[5][0])
    assert not np.array_equal(data[5][0], data[4][0])
    assert data[5][0].size == (256, 256)
    assert data[5][0].mode == ("RGB" if colour else "L")


def test_images_go_through_the_transform():
    image, label, index = dummy("ChestXray", new_size=64, crop_size=56).test[0]
    assert (image.shape, image.dtype, label, index) == ((1, 56, 56), torch.uint8, 0, 0)
