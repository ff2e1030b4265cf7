"""Pictures: their size, what is beside what, and that they are the decoder's."""

import numpy as np
import pytest
import torch

from models.dgcmm import DGCMM
from models.pictures import SIDE, rebuild, sample, to_pixels


@pytest.fixture(params=[32, SIDE + 32], ids=["small", "shrunk"])
def model(request):
    torch.manual_seed(0)
    model = DGCMM("resnet18_vae3", 4, 8, request.param).eval()
    with torch.no_grad():
        for parameter in [*model.prior.parameters(), *model.decoder.norms.parameters()]:
            parameter.normal_()
    return model


@torch.no_grad()
def test_images_stand_above_what_the_decoder_makes_of_them(model):
    side = model.decoder.image_size
    images, labels = torch.rand(3, 1, side, side), torch.tensor([0, 2, 3])
    inputs, rebuilt = rebuild(model, images, labels)
    assert inputs.shape == rebuilt.shape == (3, 3, min(side, SIDE), min(side, SIDE))
    torch.testing.assert_close(inputs.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=0.01, rtol=0)
    expected = model.reconstructions(images, labels).mean(dim=(2, 3))
    torch.testing.assert_close(rebuilt.mean(dim=(2, 3)), expected, atol=0.01, rtol=0)


@torch.no_grad()
def test_samples_of_a_component_are_its_mean_and_draws_around_it(model):
    prior, components = model.prior, torch.tensor([3, 1])
    samples = sample(model, components, 5, seed=0)
    side = min(model.decoder.image_size, SIDE)
    assert samples.shape == (2, 5, 3, side, side)
    means = model.decoder(prior.means[components], components).mean(dim=(2, 3))
    torch.testing.assert_close(samples[:, 0].mean(dim=(2, 3)), means, atol=0.01, rtol=0)
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
