"""The health of the generative half: squared errors by their definition, and what is said of them and of the prior."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from models.health import Health, measure_health, say_health, warn_of_dead_components
from utils.distributed.world import World

ARGS = argparse.Namespace(
    **{"amp": "off", "batch_size": 4, "quiet": True, "max_steps": None, "epochs": 2},
    **{"lr": 5e-3, "weight_reconst": 0.1, "weight_gmm": 0.001, "prior_lr": 5.0, "gmm_assign": "posterior"},
)


class Tinted(nn.Module):
    """Rebuilds grey images in colour, and by 0.1 brighter for each number of the label."""

    def reconstructions(self, images, labels):
        assert not self.training
        assert len(images) <= ARGS.batch_size
        return images.expand(-1, 3, -1, -1) + 0.1 * labels[:, None, None, None]


def pairs():
    """Three training and six measured images of class 1, one and two of class 3."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8) // (1 + n) for n, count in enumerate((3, 6, 1, 2))]
    labels = torch.tensor([1] * 6), torch.tensor([3] * 2)
    tensors = [torch.from_numpy(part) for part in images]
    return [(*tensors[:2], labels[0]), (*tensors[2:], labels[1])]


def test_errors_are_means_over_pixels_then_images_then_classes():
    found = measure_health(Tinted(), pairs(), 2, ARGS, World())
    measured = [images.numpy() / 255 for _, images, _ in pairs()]
    means = [examples.numpy().mean(axis=0) / 255 for examples, _, _ in pairs()]
    assert found.mse == pytest.approx((0.1**2 + 0.3**2) / 2, rel=1e-5)
    of_means = [((images - mean) ** 2).mean() for images, mean in zip(measured, means, strict=True)]
    assert found.mse_class_mean == pytest.approx(np.mean(of_means), rel=1e-5)
    greys = [np.mean([((images - grey) ** 2).mean() for images in measured]) for grey in np.linspace(0, 1, 1001)]
    assert found.mse_constant == pytest.approx(min(greys), rel=1e-4)
    assert found.mse_constant <= min(greys)
    assert found.images == 8


def test_no_more_classes_are_measured_than_a_trial_has_steps():
    found = measure_health(Tinted(), pairs(), 2, argparse.Namespace(**vars(ARGS) | {"max_steps": 1}), World())
    assert (found.mse, found.images) == (pytest.approx(0.01, rel=1e-5), 6)


DEAD, ALIVE = Health(0.3, 0.2, 0.1, 40), Health(0.19, 0.2, 0.1, 40)
SHORT = [{"max_steps": 3}, {"epochs": 1}]


@pytest.mark.parametrize(
    ("health", "changes", "warned"), [(DEAD, {}, True), (ALIVE, {}, False), *((DEAD, trial, False) for trial in SHORT)]
)
def test_decoder_no_better_than_a_constant_is_said_with_a_remedy(health, changes, warned, caplog):
    caplog.set_level("INFO", "dgcmm")
    say_health(health, "val", argparse.Namespace(**vars(ARGS) | changes))
    line, *warnings = caplog.messages
    assert line == (
        f"40 val images rebuilt: squared error {health.mse:.4f}; a constant grey has 0.2000, the class's mean training "
        "image 0.1000"
    )
    assert len(warnings) == warned
    assert not warned or "the decoder has learned nothing" in warnings[0]
    assert not warned or "a higher --weight-reconst (now 0.1) or --lr (0.005)" in warnings[0]


@pytest.mark.parametrize(
    ("live", "flags", "said"),
    [
        (
            4,
            {},
            "only 4 of the prior's components live, for 10 classes: start anew with --gmm-assign=label, or with a",
        ),
        (4, {"gmm_assign": "label"}, "start anew with a higher --prior-lr (now 5)"),
        (5, {}, None),
        (1, {"weight_gmm": 0.0}, None),  # no prior is trained
        *((1, trial, None) for trial in SHORT),
        (None, {}, None),  # another process than the main one
    ],
)
def test_prior_of_which_fewer_than_half_live_is_said_with_a_remedy(live, flags, said, caplog):
    warn_of_dead_components(live, 10, argparse.Namespace(**vars(ARGS) | flags))
    assert (said in caplog.text) if said else not caplog.messages
