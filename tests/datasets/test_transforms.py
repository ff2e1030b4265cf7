"""The transforms that data sets share."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datasets.images.source import ArraySource
from datasets.transforms import RandomCropAndFlip, make_transform


@pytest.mark.parametrize(
    ("crop_size", "share", "most"),
    [(8, 1 / 16, 1), (28, 1 / 16, 1), (32, 1 / 16, 2), (224, 1 / 16, 14), (32, 1 / 8, 4)],
)
def test_shift_moves_by_up_to_a_share_of_the_image_each_way(crop_size, share, most):
    point = np.zeros((crop_size, crop_size), np.uint8)
    point[crop_size // 2, crop_size // 2] = 255
    shift = make_transform("shift", True, "pad", crop_size, crop_size, share)
    shifted = [shift(Image.fromarray(point))[0].numpy() for _ in range(400)]
    assert {image.shape for image in shifted} == {(crop_size, crop_size)}
    moves = np.array([np.argwhere(image)[0] - crop_size // 2 for image in shifted])
    assert moves.min(axis=0).tolist() == [-most, -most]
    assert moves.max(axis=0).tolist() == [most, most]


class Recorded(ArraySource):
    """Says which part was asked for."""

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        self.part = (height, width)
        return super().crop(top, left, height, width)


@pytest.mark.parametrize(
    "shape", [(301, 257), (28, 28), (5, 300), (300, 5)], ids=["usual", "small", "too wide", "too high"]
)
def test_training_crop_has_the_pixels_of_torchvision(shape):
    """Also where no crop of a ratio in range fits."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    torchvision = T.Compose([T.RandomResizedCrop(48), T.RandomHorizontalFlip(), T.PILToTensor()])
    transform = RandomCropAndFlip(48)
    for seed in range(20):
        torch.manual_seed(seed)
        expected = torchvision(Image.fromarray(pixels))
        torch.manual_seed(seed)
        source = Recorded(pixels)
        image = transform.take(source)
        assert (image.shape, image.dtype) == ((1, 48, 48), torch.uint8)
        assert torch.equal(image, expected)
        assert source.part[0] <= shape[0]
        assert source.part[1] <= shape[1]


def test_training_crop_asks_a_source_for_no_more_than_the_crop():
    shares = []
    for seed in range(100):
        torch.manual_seed(seed)
        source = Recorded(np.zeros((200, 200), np.uint8))
        RandomCropAndFlip(32).take(source)
        shares.append(source.part[0] * source.part[1] / 200**2)
    assert 0.07 < min(shares) < 0.2 < 0.45 < np.mean(shares) < 0.6


@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50)], ids=["colour", "grey"])
def test_jitter_has_the_pixels_of_torchvision_and_the_evaluation_has_none(shape):
    """As the ImageNet-LT recipe of classifier-balancing has it; without it the same crops."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    recipe = [T.RandomResizedCrop(16), T.RandomHorizontalFlip(), T.ColorJitter(0.4, 0.4, 0.4, 0), T.PILToTensor()]
    plain = make_transform("resized-crop", True, "centre", 20, 16, 1 / 16)
    jittered = make_transform("resized-crop-jitter", True, "centre", 20, 16, 1 / 16)
    changed = []
    for seed in range(10):
        pixels = []
        for transform in (T.Compose(recipe), jittered, plain):
            torch.manual_seed(seed)
            pixels.append(transform(image))
        assert torch.equal(pixels[0], pixels[1])
        changed.append(not torch.equal(pixels[1], pixels[2]))
    assert all(changed)
    evaluations = [make_transform(kind, False, "centre", 20, 16, 1 / 16) for kind in ("none", "resized-crop-jitter")]
    assert torch.equal(*(transform(image) for transform in evaluations))


def test_training_crop_keeps_the_colour():
    """The pixels of torchvision in three channels, and the same crop as of a grey image."""
    colour = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    torchvision = T.Compose([T.RandomResizedCrop(16), T.RandomHorizontalFlip(), T.PILToTensor()])
    pixels = []
    for transform in (torchvision, RandomCropAndFlip(16)):
        torch.manual_seed(3)
        pixels.append(transform(colour))
    assert pixels[0].shape == (3, 16, 16)
    assert torch.equal(*pixels)


WIDE = Image.fromarray(np.random.default_rng(2).integers(1, 256, (20, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["none", "resized-crop", "resized-crop-jitter", "shift", "shift-flip"])
@pytest.mark.parametrize("own", ["stretch", "centre", "pad"])
def test_evaluation_sees_the_whole_image_or_its_centre_and_pads_what_is_shifted(kind, own):
    def seen(new_size: int) -> torch.Tensor:
        return make_transform(kind, False, own, new_size, new_size, 1 / 16)(WIDE)

    whole, middle = T.Resize((10, 10))(WIDE), T.Compose([T.Resize(10), T.CenterCrop(10)])(WIDE)
    assert torch.equal(seen(10), T.PILToTensor()(middle if own == "centre" else whole))
    padded = own == "pad" or kind.startswith("shift")
    assert bool((seen(50) == 0).all(dim=0).any()) is padded
    if padded:
        assert torch.equal(seen(50)[:, 15:35, 5:45], T.PILToTensor()(WIDE))


@pytest.mark.parametrize(("kind", "flips"), [("shift", False), ("shift-flip", True)])
def test_shift_flips_only_if_it_says_so(kind, flips):
    left = Image.fromarray(np.pad(np.full((32, 4), 200, np.uint8), ((0, 0), (0, 28))))
    transform = make_transform(kind, True, "pad", 32, 32, 1 / 16)
    sides = {bool(transform(left)[0, :, 16:].any()) for _ in range(40)}
    assert sides == ({True, False} if flips else {False})
