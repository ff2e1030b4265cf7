"""The images of all labels at once are as far off as the decoder's own, label by label."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.trained import H, K, trained_like
from models import candidates
from models.candidates import CandidateErrors, blocks
from models.dgcmm import DGCMM

B = 3


def assert_exact(model: DGCMM, features: Tensor, images: Tensor) -> Tensor:
    """Squared errors equal their definition, which is computed in float64 and returned: (B,K)."""
    plain, rows = model.mu_head.weight.split([H, K], dim=1)
    found = CandidateErrors(model.decoder, rows.T)(F.linear(features, plain, model.mu_head.bias), images)
    wide, columns = copy.deepcopy(model).double(), []
    for c in range(K):
        labels = torch.full((len(images),), c)
        mu, _ = wide.posterior(features.double(), labels)
        columns.append((wide.decoder(mu, labels) - images.double()).square().mean(dim=(1, 2, 3)))
    expected = torch.stack(columns, dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    return expected


@pytest.mark.parametrize("pairs", [4, 1000], ids=["in parts", "at once"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [20, 41, 64])  # smaller than what the decoder draws, as large, larger
@torch.inference_mode()
def test_squared_errors(size, channels, pairs, monkeypatch):
    monkeypatch.setattr(candidates, "DECODER_PAIRS", pairs)
    assert_exact(trained_like(size), torch.randn(B, H), torch.rand(B, channels, size, size))


@torch.inference_mode()
def test_squared_errors_of_images_that_are_rebuilt_almost_exactly():
    """Where the error is the small rest of large terms: 10^-6, as the images are off by 10^-3."""
    model, features, label = trained_like(64), torch.randn(B, H), torch.full((B,), 3)
    mu, _ = model.posterior(features, label)
    images = model.decoder(mu, label) + 1e-3 * torch.randn(B, 3, 64, 64)
    assert (assert_exact(model, features, images)[:, 3] < 2e-6).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 2), (2, 12)])
@pytest.mark.parametrize("pairs", [1, 4, 7, 100])
def test_blocks_cover_every_pair_once(shape, pairs):
    seen = torch.zeros(shape)
    for part in blocks(*shape, pairs):
        seen[part] += 1
        assert seen[part].numel() <= pairs
    assert (seen == 1).all()
