"""Grey images: the fast resize against PIL's, the crop against torchvision's, and the two transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets.images.grey import (
    ATTEMPTS,
    ArraySource,
    RandomCropAndFlip,
    ResizeAndCentreCrop,
    draw_crop,
    resize,
    whole,
)

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (301, 257), dtype=np.uint8)
EDGES = (np.add.outer(np.arange(200) // 13, np.arange(300) // 7) % 2 * 255).astype(np.uint8)
IMAGES = [NOISE, EDGES, EDGES[:64, :63], EDGES[5:6], NOISE[:, :1]]


class Recorded(ArraySource):
    """Says which part was asked for."""

    def crop(self, *part: int) -> np.ndarray:
        self.part = part
        return super().crop(*part)


def by_pil(pixels: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).astype(int)


def furthest(pixels: np.ndarray, expected: np.ndarray) -> int:
    """The largest difference, in grey levels."""
    return int(np.abs(pixels.astype(int) - expected).max())


@pytest.mark.parametrize("pixels", IMAGES, ids=lambda x: str(x.shape))
@pytest.mark.parametrize("size", [1, 32, 63, 64, 224, 300])
def test_resize_is_that_of_pil(pixels, size):
    resized = resize(pixels, size)
    assert (resized.shape, resized.dtype) == ((size, size), np.uint8)
    assert furthest(resized, by_pil(pixels, size)) <= 2


def test_resize_takes_a_part_of_an_array_and_leaves_it_as_it_was():
    before = NOISE.copy()
    assert furthest(resize(NOISE[7:200, 3:90], 50), by_pil(NOISE[7:200, 3:90], 50)) <= 2
    assert np.array_equal(NOISE, before)


def test_resize_to_the_size_that_an_image_has_changes_no_pixel():
    assert np.array_equal(resize(NOISE[:200, :200], 200), NOISE[:200, :200])


def uniform(seed: int) -> list[float]:
    return torch.rand(2 * ATTEMPTS + 2, generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (40, 60), (1, 1), (10, 300), (300, 10)])
def test_crop_lies_within_the_image(height, width):
    for seed in range(200):
        top, left, rows, columns = draw_crop(height, width, uniform(seed))
        assert 0 <= top <= top + rows <= height
        assert 0 <= left <= left + columns <= width
        assert rows > 0
        assert columns > 0


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (300, 500), (100, 300)])
def test_crops_have_the_law_of_torchvision(height, width):
    image = torch.empty(1, height, width, device="meta")
    ours = np.array([draw_crop(height, width, uniform(seed)) for seed in range(4000)])
    torch.manual_seed(0)
    theirs = np.array([T.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for mine, other in zip(ours.T, theirs.T, strict=True):
        values = np.union1d(mine, other)
        shares = [np.searchsorted(np.sort(drawn), values, side="right") / 4000 for drawn in (mine, other)]
        assert np.abs(shares[0] - shares[1]).max() < 0.045  # Kolmogorov-Smirnov at 0.0006


@pytest.mark.parametrize(("height", "width"), [(10, 300), (300, 10), (10, 13), (13, 10), (10, 10)])
def test_where_no_crop_fits_it_is_the_middle_as_in_torchvision(height, width):
    never = [1.0, 0.0] if height <= width else [1.0, 1.0]  # the whole area, in the other direction
    image = torch.empty(1, height, width, device="meta")
    expected = T.RandomResizedCrop.get_params(image, [9.0, 9.0], [3 / 4, 4 / 3])
    assert draw_crop(height, width, [*never * ATTEMPTS, 0.5, 0.5]) == expected


def test_training_transform_is_the_drawn_part_resized_and_half_the_time_flipped():
    transform, source = RandomCropAndFlip(48), Recorded(NOISE)
    flips = 0
    for seed in range(40):
        torch.manual_seed(seed)
        image = transform.take(source)
        top, left, rows, columns = source.part
        plain = by_pil(NOISE[top : top + rows, left : left + columns], 48)
        assert (image.shape, image.dtype, image.is_contiguous()) == ((1, 48, 48), torch.uint8, True)
        flipped = furthest(image[0].numpy(), plain[:, ::-1]) <= 2
        assert flipped or furthest(image[0].numpy(), plain) <= 2
        flips += flipped
    assert 10 <= flips <= 30


@pytest.mark.parametrize(("new_size", "crop_size"), [(64, 64), (64, 48), (65, 48), (256, 224)])
def test_evaluation_is_resize_and_centre_crop(new_size, crop_size):
    plain = T.Compose([T.Resize((new_size, new_size)), T.CenterCrop(crop_size), T.PILToTensor()])
    image = ResizeAndCentreCrop(new_size, crop_size).take(ArraySource(EDGES))
    assert (image.shape, image.dtype) == ((1, crop_size, crop_size), torch.uint8)
    assert furthest(image.numpy(), plain(Image.fromarray(EDGES)).numpy().astype(int)) <= 2


@pytest.mark.parametrize("transform", [RandomCropAndFlip(32), ResizeAndCentreCrop(40, 32)])
def test_pil_image_of_any_mode_is_taken_too(transform):
    images = []
    for image in (ArraySource(NOISE), Image.fromarray(NOISE), Image.fromarray(NOISE).convert("RGBA")):
        torch.manual_seed(3)
        images.append(transform.take(image) if isinstance(image, ArraySource) else transform(image))
    assert all(torch.equal(images[0], image) for image in images)


def test_whole_is_every_pixel():
    assert np.array_equal(whole(ArraySource(NOISE)), NOISE)
