"""The random images of --dummy."""

import numpy as np
import pytest
import torch

from datasets import DATASETS
from datasets.dummy import DummyDataset


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("train", [True, False])
def test_classes_and_counts_are_those_of_the_data_set(name, train):
    spec = DATASETS[name]
    data = DummyDataset(spec, train)
    assert data.classes == spec.classes
    assert tuple(data.class_counts) == (spec.train_counts if train else spec.test_counts)
    assert len(set(data.ids)) == len(data)


def test_image_of_a_row_repeats_and_rows_differ():
    data, again = (DummyDataset(DATASETS["ChestXray"], True) for _ in range(2))
    assert np.array_equal(data[5][0], again[5][0])
    assert not np.array_equal(data[5][0], data[6][0])
    assert data[5][0].size == (256, 256)


def test_images_go_through_the_transform():
    spec = DATASETS["ChestXray"]
    data = DummyDataset(spec, False, spec.transform(False, 64, 56))
    image, label, index = data[0]
    assert (image.shape, image.dtype, label, index) == ((1, 56, 56), torch.uint8, 0, 0)
