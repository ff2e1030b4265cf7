"""The transforms that data sets share."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets.transforms import Enlarge, evaluation, small_shift

NOISE = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)  # without black


@pytest.mark.parametrize(("size", "before"), [(28, 0), (32, 2), (33, 2), (55, 13)])
def test_enlarge_pads_with_black_where_no_whole_factor_fits(size, before):
    enlarged = np.asarray(Enlarge(size)(Image.fromarray(NOISE)))
    assert enlarged.shape == (size, size)
    assert np.array_equal(enlarged[before : before + 28, before : before + 28], NOISE)
    assert np.count_nonzero(enlarged) == 28 * 28


def test_enlarge_takes_the_largest_whole_factor():
    enlarged = np.asarray(Enlarge(256)(Image.fromarray(NOISE)))
    assert enlarged.shape == (256, 256)
    rows, columns = np.nonzero(enlarged)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 253, 2, 253)  # 9 x 28 = 252


def test_enlarge_shrinks_what_is_too_large():
    assert Enlarge(16)(Image.fromarray(NOISE)).size == (16, 16)


def test_evaluation_resizes_crops_the_centre_and_keeps_uint8():
    image = Image.fromarray(np.pad(np.full((2, 2), 200, np.uint8), 1))
    pixels = evaluation(T.Resize((4, 4)), 2)(image)
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == [[[200, 200], [200, 200]]]


def test_evaluation_applies_the_random_transforms_to_the_crop():
    seen = []
    evaluation(T.Resize((20, 20)), 12, lambda image: seen.append(image.size) or image)(Image.fromarray(NOISE))
    assert seen == [(12, 12)]


@pytest.mark.parametrize(("crop_size", "most"), [(8, 1), (32, 2), (224, 14)])
def test_small_shift_moves_by_up_to_a_sixteenth_each_way(crop_size, most):
    point = np.zeros((crop_size, crop_size), np.uint8)
    point[crop_size // 2, crop_size // 2] = 255
    shift = small_shift(crop_size)
    shifted = [np.asarray(shift(Image.fromarray(point))) for _ in range(400)]
    assert {image.shape for image in shifted} == {(crop_size, crop_size)}
    moves = np.array([np.argwhere(image)[0] - crop_size // 2 for image in shifted])
    assert moves.min(axis=0).tolist() == [-most, -most]
    assert moves.max(axis=0).tolist() == [most, most]
