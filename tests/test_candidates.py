"""All labels at once give what each label gives by itself, term by term."""

import copy

import pytest
import torch
from torch import Tensor

from models import candidates
from models.candidates import Candidates
from models.dgcmm import DGCMM, LossWeights
from models.prior import LOG_VAR_LIMIT

B, K, D = 3, 7, 12
WEIGHTS = LossWeights(10.0, 0.1, 0.001)


def trained_like(size: int, assign: str = "posterior") -> DGCMM:
    """A generative model whose labels, statistics and components all matter."""
    torch.manual_seed(0)
    model = DGCMM("resnet18_vae3", K, D, size, generative=True, gmm_assign=assign).eval()
    with torch.no_grad():
        for head in (model.mu_head, model.log_var_head):
            head.weight[:, -K:].normal_(std=0.7)
        model.log_var_head.bias.normal_(std=6.0)  # some beyond the limit
        for norm in model.decoder.norms:
            norm.gain.normal_(std=0.3)
            norm.bias.normal_(std=0.3)
        for module in model.decoder.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.3, 2.0)
        model.prior.means.normal_()
        model.prior.log_vars.normal_()
        model.prior.logits.normal_()
    return model


def of(model: DGCMM, features: Tensor) -> Candidates:
    return Candidates(model.mu_head, model.log_var_head, features, LOG_VAR_LIMIT)


def one_by_one(model: DGCMM, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors and mixture terms by their definitions, in float64, (B,K) each."""
    wide, images = copy.deepcopy(model).double(), images.double()
    errors, terms = [], []
    for c in range(K):
        labels = torch.full((len(features),), c)
        mu, log_var = wide.posterior(features.double(), labels)
        errors.append((wide.decoder(mu, labels) - images).square().mean(dim=(1, 2, 3)))
        own = labels if model.gmm_assign == "label" else None
        terms.append(wide.prior.mixture_term(mu, log_var, mu, own))
    return torch.stack(errors, dim=1), torch.stack(terms, dim=1)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


@pytest.fixture(params=[4, 1000], ids=["in parts", "at once"])
def _pairs(request, monkeypatch):
    monkeypatch.setattr(candidates, "MIXTURE_PAIRS", request.param)
    monkeypatch.setattr(candidates, "DECODER_PAIRS", request.param)


@pytest.mark.usefixtures("_pairs")
@pytest.mark.parametrize("assign", ["posterior", "label"])
@torch.inference_mode()
def test_mixture_terms(assign):
    model = trained_like(32, assign)
    features = torch.randn(B, 512)
    _, expected = one_by_one(model, features, torch.rand(B, 1, 32, 32))
    assert_close(of(model, features).mixture_terms(model.prior, assign), expected)


@pytest.mark.usefixtures("_pairs")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [20, 41, 64])  # smaller than what the decoder draws, as large, larger
@torch.inference_mode()
def test_squared_errors(size, channels):
    model = trained_like(size)
    features, images = torch.randn(B, 512), torch.rand(B, channels, size, size)
    expected, _ = one_by_one(model, features, images)
    assert_close(of(model, features).squared_errors(model.decoder, images), expected)


@torch.inference_mode()
def test_squared_errors_of_images_that_are_rebuilt_almost_exactly():
    """Where the error is the small rest of large terms: 10^-6, as the images are off by 10^-3."""
    model = trained_like(64)
    features, label = torch.randn(B, 512), torch.full((B,), 3)
    mu, _ = model.posterior(features, label)
    images = model.decoder(mu, label) + 1e-3 * torch.randn(B, 3, 64, 64)
    expected, _ = one_by_one(model, features, images)
    assert (expected[:, 3] < 2e-6).all()
    assert_close(of(model, features).squared_errors(model.decoder, images), expected)


@torch.inference_mode()
def test_scores_are_the_weighted_sum_and_leave_out_a_term_of_weight_0():
    model, images = trained_like(32), torch.rand(B, 1, 32, 32)
    features, fixed = model.scores(images, WEIGHTS)
    errors, terms = one_by_one(model, features, images)
    assert_close(fixed, -(WEIGHTS.reconst * errors + WEIGHTS.gmm * terms))
    assert_close(model.scores(images, WEIGHTS._replace(gmm=0.0))[1], -WEIGHTS.reconst * errors)
    assert_close(model.scores(images, WEIGHTS._replace(reconst=0.0))[1], -WEIGHTS.gmm * terms)
