"""The random images of --dummy."""

import numpy as np
import pytest
import torch

from datasets import get_transform
from datasets.dummy import DummyDataset
from datasets.names import DATASETS


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("train", [True, False])
def test_classes_and_counts_are_those_of_the_data_set(name, train):
    info, data = DATASETS[name], DummyDataset(name, train, None)
    assert data.classes == info.classes
    assert tuple(data.class_counts) == (info.train_counts if train else info.test_counts)
    assert len(set(data.ids)) == len(data)


def test_image_of_a_row_repeats_and_rows_differ():
    data, again = (DummyDataset("ChestXray", True, None) for _ in range(2))
    assert np.array_equal(data[5][0], again[5][0])
    assert not np.array_equal(data[5][0], data[6][0])
    assert data[5][0].size == (256, 256)


def test_images_go_through_the_transform():
    data = DummyDataset("ChestXray", False, get_transform("ChestXray", False, 64, 56))
    image, label, index = data[0]
    assert (image.shape, image.dtype, label, index) == ((1, 56, 56), torch.uint8, 0, 0)
