"""Mixup: who is mixed with whom, for any number of processes, and what becomes of each term of the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.trained import D, K, trained_like
from models.classifier import PlainClassifier
from models.losses import LOSSES, LossWeights, build_loss
from models.mixup import Mixed, mix
from utils.randomness import mixing_share

SHARE, S = 0.3, 32
LABELS = torch.tensor([0, 1, 2, 3, 0, 2])
OTHERS = torch.tensor([3, 0, 2, 0, 1, 2])  # one half of the batch further
B = len(LABELS)
SHARES = SHARE * F.one_hot(LABELS, K) + (1 - SHARE) * F.one_hot(OTHERS, K)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_pairs_are_the_same_for_any_number_of_processes(world):
    images, labels = torch.rand(24, 1, 4, 4), torch.arange(24)
    found, partners = torch.empty_like(images), torch.empty_like(labels)
    for rank in range(world):  # each has every world-th image
        own = slice(rank, None, world)
        found[own], mixed = mix(images[own], labels[own], SHARE)
        partners[own] = mixed.labels
    assert partners.tolist() == [(place + 12) % 24 for place in range(24)]
    torch.testing.assert_close(found, SHARE * images + (1 - SHARE) * images[partners])


def test_shares_are_drawn_from_the_beta_distribution():
    for alpha in (0.2, 1.0, 4.0):
        shares = np.array([mixing_share(alpha, 0, epoch, step) for epoch in range(40) for step in range(50)])
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_label_shares_add_up_to_1_and_equal_labels_to_one_label():
    shares = Mixed(OTHERS, SHARE).label_shares(LABELS, K)
    torch.testing.assert_close(shares, SHARES)
    torch.testing.assert_close(shares[2], F.one_hot(torch.tensor(2), K).float())


@pytest.mark.parametrize("loss", LOSSES)
def test_classification_term_is_that_of_both_labels_by_their_shares(loss):
    model, images = PlainClassifier("resnet32", K).eval(), torch.rand(B, 1, S, S)
    criterion = model.criterion = build_loss(loss, range(1, K + 1), reweighted=True)
    logits = model.classifier(model.features(images))
    expected = SHARE * criterion(logits, LABELS) + (1 - SHARE) * criterion(logits, OTHERS)
    terms = model(images, LABELS, None, LossWeights(2.0, 0.0, 0.0), Mixed(OTHERS, SHARE))
    torch.testing.assert_close((terms.cls, terms.total), (expected, 2 * expected))


@pytest.mark.parametrize("assign", ["posterior", "label"])
@torch.no_grad()
def test_terms_of_a_generative_model_by_their_definitions(assign):
    """The label's shares stand where onehot(y) stood, and the mixed image is what is to be rebuilt."""
    model, images, noise = trained_like(S, assign), torch.rand(B, 3, S, S), torch.randn(B, D)
    terms = model(images, LABELS, noise, LossWeights(1.0, 1.0, 1.0), Mixed(OTHERS, SHARE))
    inputs = torch.cat([model.features(images), SHARES], dim=1)
    mu, log_var = model.mu_head(inputs), model.log_var_head(inputs).clamp(-10, 10)
    codes = mu + (0.5 * log_var).exp() * noise
    maps = model.decoder.project(codes).view(B, 128, 6, 6)
    for depth, (convolution, norm) in enumerate(zip(model.decoder.convolutions, model.decoder.norms, strict=True)):
        maps = norm.norm(convolution(maps.relu() if depth else maps))
        maps = maps * (1 + SHARES @ norm.gain)[:, :, None, None] + (SHARES @ norm.bias)[:, :, None, None]
    rebuilt = F.interpolate(maps.sigmoid(), (S, S), mode="bilinear", align_corners=False)
    torch.testing.assert_close(terms.reconst, (rebuilt - images).square().mean())
    if assign == "posterior":
        gmm = model.prior.mixture_term(mu, log_var, codes)
    else:
        own, other = (model.prior.mixture_term(mu, log_var, codes, y) for y in (LABELS, OTHERS))
        gmm = SHARE * own + (1 - SHARE) * other + torch.xlogy(SHARES, SHARES).sum(dim=1)  # KL(gamma || pi)
    torch.testing.assert_close(terms.gmm, gmm.mean(), rtol=1e-4, atol=0)
    logits = model.classifier(codes)
    cls = SHARE * F.cross_entropy(logits, LABELS) + (1 - SHARE) * F.cross_entropy(logits, OTHERS)
    torch.testing.assert_close(terms.cls, cls)


@torch.no_grad()
def test_share_of_1_changes_nothing():
    model, images, noise = trained_like(S, "label"), torch.rand(B, 1, S, S), torch.randn(B, D)
    weights = LossWeights(1.0, 1.0, 1.0)
    mixed_images, mixed = mix(images, LABELS, 1.0)
    torch.testing.assert_close(mixed_images, images)
    torch.testing.assert_close(model(images, LABELS, noise, weights, mixed), model(images, LABELS, noise, weights))


def test_mixed_batch_under_bf16():
    model, images, noise = trained_like(S).train(), torch.rand(B, 1, S, S), torch.randn(B, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model(images, LABELS, noise, LossWeights(1.0, 1.0, 1.0), Mixed(OTHERS, SHARE))
    terms.total.backward()
    assert {value.dtype for value in terms} == {torch.float32}
