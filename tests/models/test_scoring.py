"""Scores and probabilities of all labels at once equal their definitions, which take one label at a time."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.trained import D, K, trained_like
from models import scoring
from models.classifier import CosineClassifier
from models.dgcmm import DGCMM
from models.losses import LOSSES, LossWeights, build_loss
from models.scoring import Scorer

B, S = 3, 32
ALL = LossWeights(0.5, 10.0, 0.01)
MODELS = pytest.mark.parametrize(
    "model", [None, "posterior", "label"], ids=["plain", "posterior", "label"], indirect=True
)


@pytest.fixture
def model(request) -> DGCMM:
    """In evaluation: generative with this way to assign components, or plain."""
    if request.param:
        return trained_like(S, request.param)
    model = DGCMM("resnet18_vae3", K, D, S).eval()
    torch.nn.init.normal_(model.log_var_head.weight)  # a sampled code would lie far off
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(B, 1, S, S)


def probabilities(model: DGCMM, images: Tensor, weights: LossWeights = ALL) -> Tensor:
    scorer = Scorer(model, weights)
    return scorer.probabilities(*scorer.evidence(images))


def terms_of(model: DGCMM, features: Tensor, images: Tensor) -> LossWeights:
    """The three terms of every label by their definitions, in float64: (B,K) each."""
    model, features, images = copy.deepcopy(model).double(), features.double(), images.double()
    found = []
    for c in range(K):
        labels = torch.full((len(images),), c)
        mu, log_var = model.posterior(features, labels)
        cls = F.cross_entropy(model.classifier(mu), labels, reduction="none")
        reconst = (model.decoder(mu, labels) - images).square().mean(dim=(1, 2, 3))
        own = labels if model.gmm_assign == "label" else None
        found.append(torch.stack([cls, reconst, model.prior.mixture_term(mu, log_var, mu, own)]))
    return LossWeights(*torch.stack(found, dim=2))


@pytest.mark.parametrize("pairs", [B - 1, 4, 1000], ids=["a label at a time", "in parts", "at once"])
@pytest.mark.parametrize("model", ["posterior", "label"], indirect=True)
@pytest.mark.parametrize("term", LossWeights._fields)
@torch.no_grad()
def test_each_term_equals_its_definition(model, images, term, pairs, monkeypatch):
    monkeypatch.setattr(scoring, "PAIRS", pairs)
    monkeypatch.setattr(scoring, "DECODER_PAIRS", pairs)
    scorer = Scorer(model, LossWeights(0.0, 0.0, 0.0)._replace(**{term: 1.0}))
    features, fixed = scorer.evidence(images)
    expected = getattr(terms_of(model, features, images), term)
    if term == "cls":
        assert not fixed.any()
        torch.testing.assert_close(scorer.probabilities(features, fixed).double(), (-expected).softmax(1))
    else:
        torch.testing.assert_close(-fixed.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("pairs", [4, 1000], ids=["in parts", "at once"])
@torch.no_grad()
def test_cross_entropy_of_a_classifier_by_the_cosine_equals_its_definition(images, pairs, monkeypatch):
    monkeypatch.setattr(scoring, "PAIRS", pairs)
    model = trained_like(S, cosine=True)
    scorer = Scorer(model, LossWeights(1.0, 0.0, 0.0))
    features, fixed = scorer.evidence(images)
    expected = terms_of(model, features, images).cls
    torch.testing.assert_close(scorer.probabilities(features, fixed).double(), (-expected).softmax(1))


@torch.no_grad()
def test_scores_have_the_plain_cross_entropy_whatever_the_loss(images):
    model = trained_like(S)
    before = probabilities(model, images)
    for name in LOSSES:
        model.criterion = build_loss(name, range(1, K + 1), reweighted=True)
        assert torch.equal(probabilities(model, images), before)


def assert_squared_errors_exact(model: DGCMM, images: Tensor) -> Tensor:
    """Compare with the definition, in float64, and return it: (B,K)."""
    features, fixed = Scorer(model, LossWeights(0.0, 1.0, 0.0)).evidence(images)
    expected = terms_of(model, features, images).reconst
    torch.testing.assert_close(-fixed.double(), expected, rtol=1e-4, atol=0)
    return expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [20, 41, 64])  # smaller than what the decoder draws, as large, larger
@torch.no_grad()
def test_squared_errors_at_any_size(size, channels):
    assert_squared_errors_exact(trained_like(size), torch.rand(B, channels, size, size))


@torch.no_grad()
def test_squared_errors_of_images_that_are_rebuilt_almost_exactly():
    """Where the error is the small rest of large terms: 10^-6, as the images are off by 10^-3."""
    model, label = trained_like(64), torch.full((B,), 3)
    features = model.features(torch.rand(B, 3, 64, 64))
    model.features = lambda _images: features
    mu, _ = model.posterior(features, label)
    images = model.decoder(mu, label) + 1e-3 * torch.randn(B, 3, 64, 64)
    assert (assert_squared_errors_exact(model, images)[:, 3] < 2e-6).all()


@pytest.mark.parametrize("model", ["posterior", "label"], indirect=True)
@torch.no_grad()
def test_generative_probabilities_are_the_softmax_of_the_weighted_sum(model, images):
    expected = -sum(
        weight * term for weight, term in zip(ALL, terms_of(model, model.features(images), images), strict=True)
    )
    assert expected.softmax(1).max() < 0.999  # so that the comparison means something
    torch.testing.assert_close(probabilities(model, images).double(), expected.softmax(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["label"], indirect=True)
@torch.no_grad()
def test_labels_far_behind_the_best_one_still_have_an_order(model, images):
    """A difference of 150 is 0 in float32."""
    scorer = Scorer(model, LossWeights(0.0, 1.0, 0.0))
    found = scorer.probabilities(model.features(images), -150.0 * torch.arange(K).expand(len(images), -1))
    assert (found[:, :4].diff(dim=1) < 0).all()


@pytest.mark.parametrize("model", [None], indirect=True)
@torch.no_grad()
def test_plain_probabilities_are_the_classifiers_at_mu(model, images):
    mu, _ = model.posterior(model.features(images), None)
    torch.testing.assert_close(probabilities(model, images), model.classifier(mu).softmax(1))


@MODELS
@torch.no_grad()
def test_encoder_runs_once_per_image(model, images):
    sizes = []
    model.encoder.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    probabilities(model, images)
    assert sizes == [B]


@MODELS
@torch.no_grad()
def test_one_scorer_serves_many_batches(model, images):
    scorer, others = Scorer(model, ALL), torch.rand(2 * B, 1, S, S)
    for batch in (images, others, images):
        assert torch.equal(scorer.probabilities(*scorer.evidence(batch)), probabilities(model, batch))


@MODELS
@torch.no_grad()
def test_retrained_classifier_needs_no_new_scores(model, images):
    stored, before = Scorer(model, ALL).evidence(images), probabilities(model, images)
    model.classifier.weight.mul_(-1)
    found = Scorer(model, ALL).probabilities(*stored)
    torch.testing.assert_close(found, probabilities(model, images))
    assert not torch.allclose(found, before)


@MODELS
@torch.no_grad()
def test_float32_under_bf16(model, images):
    weights = ALL._replace(reconst=0.0)  # the decoder may round
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scorer = Scorer(model, weights)
        features, fixed = scorer.evidence(images)
        found = scorer.probabilities(features, fixed)
    assert features.dtype == fixed.dtype == torch.float32
    assert found.dtype == (torch.float64 if model.generative else torch.float32)
    model.features = lambda _images: features
    torch.testing.assert_close(found, probabilities(model, images, weights), rtol=1e-6, atol=1e-6)


@MODELS
@torch.no_grad()
def test_rest_of_the_batch_does_not_matter(model, images):
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    whole, one = probabilities(model, images), probabilities(model, images[:1])
    torch.testing.assert_close(whole[:1], one, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


@torch.no_grad()
def test_code_of_length_0_has_the_logits_of_the_cosine_classifier():
    model = trained_like(32, "posterior")
    model.classifier = CosineClassifier(D, K)
    for value in model.mu_head.parameters():
        value.zero_()
    scorer = Scorer(model, LossWeights(1.0))
    found = scorer.probabilities(*scorer.evidence(torch.rand(2, 1, 32, 32)))
    torch.testing.assert_close(found, torch.full((2, K), 1 / K).double())
