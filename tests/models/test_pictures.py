"""Pictures: their size, what is beside what, and that they are the decoder's."""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.runs import run_without_folder
from models.dgcmm import DGCMM
from models.pictures import SIDE, rebuild, reconstruct, sample, to_pixels


@pytest.fixture(params=[32, SIDE + 32], ids=["small", "shrunk"])
def model(request):
    torch.manual_seed(0)
    model = DGCMM("resnet32_vae3", 4, 8, request.param).eval()
    with torch.no_grad():
        for parameter in [*model.prior.parameters(), *model.decoder.norms.parameters()]:
            parameter.normal_()
    return model


def shrunk(images):
    """Images as a picture shows them: whole, upright, no larger than `SIDE`."""
    side = min(images.shape[-1], SIDE)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def test_images_stand_above_what_the_decoder_makes_of_them(model):
    side = model.decoder.image_size
    images, labels = torch.rand(3, 1, side, side), torch.tensor([0, 2, 3])
    inputs, rebuilt = rebuild(model, images, labels)
    assert inputs.shape == rebuilt.shape == (3, 3, min(side, SIDE), min(side, SIDE))
    torch.testing.assert_close(inputs, shrunk(images).expand(-1, 3, -1, -1))
    torch.testing.assert_close(rebuilt, shrunk(model.reconstructions(images, labels)))


@torch.no_grad()
def test_samples_of_a_component_are_its_mean_and_draws_around_it(model):
    prior, components = model.prior, torch.tensor([3, 1])
    samples = sample(model, components, 5, seed=0)
    side = min(model.decoder.image_size, SIDE)
    assert samples.shape == (2, 5, 3, side, side)
    torch.testing.assert_close(samples[:, 0], shrunk(model.decoder(prior.means[components], components)))
    assert len(samples.flatten(0, 1).flatten(1).unique(dim=0)) == 10
    torch.testing.assert_close(sample(model, components, 5, seed=0), samples)
    assert not torch.equal(sample(model, components, 5, seed=1)[:, 1:], samples[:, 1:])
    prior.log_vars.fill_(-10)
    narrow = sample(model, components, 5, seed=0)
    torch.testing.assert_close(narrow[:, 1:].mean(dim=1), narrow[:, 0], atol=0.05, rtol=0)


def test_pixels_are_those_of_image_files():
    pictures = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    pixels = to_pixels(pictures)
    assert pixels.shape == (1, 2, 2, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0, 0].tolist() == [0, 128, 255]


def test_split_that_has_few_of_many_classes_is_shown_by_those():
    """Of 20 classes 12 are shown; the three that there are images of are not among those of all sizes."""
    torch.manual_seed(0)
    model = DGCMM("resnet32_vae3", 20, 8, 32)
    labels = np.array([3, 3, 10, 16])
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
    data = [
        (torch.from_numpy(image), label, index) for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    split = type("Split", (), {"targets": labels, "__getitem__": lambda self, index: data[index]})()
    args = argparse.Namespace(clip_grad=0.0, amp="off")
    run = run_without_folder(args, model, torch.optim.SGD(model.parameters()))
    run.about["class_counts"] = list(range(40, 20, -1))
    pictures, shown = reconstruct(run, split)
    assert shown.tolist() == [3, 3, 10, 16]
    assert pictures.shape == (2, 4, 3, 32, 32)
