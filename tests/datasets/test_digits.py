"""Digits_LT: scikit-learn's digits, long-tailed."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datasets import DATASETS
from helpers.data import load_part

DIGITS = DATASETS["Digits_LT"]


@pytest.mark.parametrize(
    ("train", "counts"), [(True, DIGITS.train_counts), (False, DIGITS.test_counts)], ids=["training", "test"]
)
def test_counts_per_class(train, counts):
    data = load_part("Digits_LT", "", train)
    assert tuple(data.class_counts) == counts
    assert data.classes == DIGITS.classes
    assert data.groups is None


@pytest.mark.parametrize("subset_seed", range(5))
def test_no_image_is_in_both_splits(subset_seed):
    train, test = (load_part("Digits_LT", "", split, subset_seed=subset_seed) for split in (True, False))
    assert not set(train.ids) & set(test.ids)
    assert len(set(train.ids)) == len(train)


def test_subset_seed_draws_the_training_images_but_not_the_test_images():
    train = [load_part("Digits_LT", "", True, subset_seed=seed).fingerprint() for seed in (0, 0, 1, 2)]
    test = [load_part("Digits_LT", "", False, subset_seed=seed).fingerprint() for seed in (0, 1)]
    assert train[0] == train[1]
    assert len(set(train)) == 3
    assert test[0] == test[1]


@pytest.mark.parametrize("train", [True, False])
def test_image_label_and_id_belong_together(train):
    bunch = load_digits()
    data = load_part("Digits_LT", "", train)
    for index in range(0, len(data), 37):
        image, label, _ = data[index]
        row = int(data.ids[index].removeprefix("digits/"))
        assert label == bunch.target[row]
        assert np.allclose(np.asarray(image), bunch.images[row] * 255 / 16, atol=0.5)


def test_training_shifts_and_never_mirrors():
    data = load_part("Digits_LT", "", True)
    image, plain = data[0][0], DIGITS.transform(False, 32, 32)(data[0][0])
    augment = DIGITS.transform(True, 32, 32)
    shifts = {
        torch.nn.functional.pad(plain, (2, 2, 2, 2))[:, y : y + 32, x : x + 32].numpy().tobytes()
        for y in range(5)
        for x in range(5)
    }
    drawn = {augment(image).numpy().tobytes() for _ in range(100)}
    assert len(drawn) > 10
    assert drawn <= shifts
