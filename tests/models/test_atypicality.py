"""The distance of a code from its component, and its place among those of the training codes."""

import numpy as np
import torch

from models.atypicality import QUANTILES, atypicality, code_distances, distance_quantiles, measure_distances
from models.dgcmm import DGCMM
from models.prior import GaussianMixturePrior
from utils.distributed.world import World


def test_distance_is_that_of_the_definition():
    prior = GaussianMixturePrior(3, 5)
    with torch.no_grad():
        prior.log_vars.normal_()
    mu, labels = torch.randn(4, 5), torch.tensor([2, 0, 2, 1])
    distances = code_distances(prior, mu, labels)
    for code, label, found in zip(mu, labels, distances, strict=True):
        inverse = torch.diag(1 / prior.log_vars[label].exp())
        offset = code - prior.means[label]
        torch.testing.assert_close(found, offset @ inverse @ offset)


def test_share_of_training_codes_that_lie_nearer():
    rng = np.random.default_rng(0)
    distances, labels = rng.gamma(3, size=3000), rng.integers(0, 2, 3000)
    distances[labels == 1] += 10
    quantiles = distance_quantiles(distances, labels, 3)
    assert quantiles.shape == (3, QUANTILES)
    asked, classes = np.array([0.0, 2.0, 11.0, 99.0, 2.0]), np.array([0, 0, 1, 1, 2])
    found = atypicality(quantiles, torch.from_numpy(asked), torch.from_numpy(classes))
    expected = [(distances[labels == c] < value).mean() for value, c in zip(asked[:4], classes[:4], strict=True)]
    assert np.abs(found[:4] - expected).max() < 0.01
    assert found[0] == 0
    assert found[3] == 1
    assert np.isnan(found[4])  # no training image of that class was measured


def test_class_of_one_image():
    quantiles = distance_quantiles(np.array([3.0]), np.array([0]), 1)
    found = atypicality(quantiles, torch.tensor([2.0, 4.0]), torch.tensor([0, 0]))
    assert found.tolist() == [0, 1]


def test_distances_are_of_the_model_in_evaluation_whatever_mode_it_was_in():
    model, images = DGCMM("resnet32_vae3", 2, 4, 16), torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    batches = [(images, torch.tensor([0, 1] * 3))]
    expected = measure_distances(model.eval(), batches, "off", World())
    torch.testing.assert_close(measure_distances(model.train(), batches, "off", World()), expected)
