"""What is done to test images."""

import pytest
import torch

from scripts.experiments.corruption import CORRUPTIONS


@pytest.mark.parametrize("deviation", [0.1, 0.2])
def test_noise_has_the_deviation_of_its_name_and_ends_at_black_and_white(deviation):
    noisy = CORRUPTIONS[f"noise {deviation}"]
    grey, black, white = (noisy(torch.full((4, 1, 64, 64), level), 3) for level in (0.5, 0.0, 1.0))
    assert grey.std().item() == pytest.approx(deviation, rel=0.05)
    assert (black.min(), white.max()) == (0, 1)
    assert black.max() > deviation
    assert white.min() < 1 - deviation
    assert torch.equal(grey, noisy(torch.full((4, 1, 64, 64), 0.5), 3))
    assert not torch.equal(grey, noisy(torch.full((4, 1, 64, 64), 0.5), 4))


def test_half_brightness_halves_each_pixel():
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(CORRUPTIONS["half brightness"](images, 0), images / 2)


def test_blur_is_the_mean_of_what_lies_around_a_pixel():
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    blurred = CORRUPTIONS["blur 3x3"](image, 0)[0, 0]
    expected = torch.zeros(4, 4)
    expected[:2, :2] = torch.tensor([[1 / 4, 1 / 6], [1 / 6, 1 / 9]])
    torch.testing.assert_close(blurred, expected)
