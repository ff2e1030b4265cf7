"""The classification terms by their definitions, written out here in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.classifier import CosineClassifier, PlainClassifier
from models.losses import (
    BALANCING_LOSSES,
    LIKELIHOOD_LOSSES,
    LOSSES,
    FocalLoss,
    build_loss,
    effective_number_weights,
    first_reweighted_epoch,
    implied_shares,
    margins,
)

COUNTS = (5000, 320, 17, 1)
K, B = len(COUNTS), 6


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(B, K)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 0, 1])


def label_probabilities(logits, labels):
    return logits.double().softmax(dim=1)[torch.arange(len(labels)), labels]


def assert_close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy_is_the_mean_of_minus_log_p():
    """Of p = 3/4, which the many images have, and of p = 1/2, which the only one of its class has."""
    logits = torch.tensor([[math.log(3), 0.0]] * 2 + [[0.0, 0.0]])
    found = build_loss("ce", (5000, 1))(logits, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx((2 * math.log(4 / 3) + math.log(2)) / 3)


def test_focal_is_by_the_probability_of_the_label(logits, labels):
    p = label_probabilities(logits, labels)
    assert_close(build_loss("focal", COUNTS)(logits, labels), ((1 - p) ** 2 * -p.log()).mean())


def test_class_weights_stand_outside_of_the_focal_loss(logits, labels):
    """p is the label's probability, not exp(-w CE)."""
    weights = effective_number_weights(torch.tensor(COUNTS))
    p, w = label_probabilities(logits, labels), weights[labels]
    assert_close(FocalLoss(weights)(logits, labels), (w * (1 - p) ** 2 * -p.log()).sum() / w.sum())


def test_effective_number_weights_are_exact_and_sum_to_the_classes():
    weights = effective_number_weights(torch.tensor(COUNTS))
    exact = np.array([(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS])
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights, exact * K / exact.sum(), rtol=1e-12)
    assert weights.sum().item() == pytest.approx(K, abs=1e-12)


def test_class_balanced_is_the_weighted_mean(logits, labels):
    weights = effective_number_weights(torch.tensor(COUNTS))
    expected = F.cross_entropy(logits.double(), labels, weight=weights)
    assert_close(build_loss("class-balanced", COUNTS)(logits, labels), expected)


def test_weighted_mean_is_of_the_batch_of_all_processes(logits, labels):
    """Two processes with half of the images each, whose gradients are averaged, take the step of one."""
    weights = effective_number_weights(torch.tensor(COUNTS)).float()
    whole = logits.clone().requires_grad_()
    F.cross_entropy(whole, labels, weight=weights).backward()
    parts = logits.clone().requires_grad_()
    loss = build_loss("class-balanced", COUNTS, average=lambda _own: weights[labels].mean())
    losses = [loss(parts[rank::2], labels[rank::2]) for rank in (0, 1)]
    (sum(losses) / 2).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_margins_fall_with_the_fourth_root_of_the_count():
    found = margins(torch.tensor(COUNTS))
    assert found[-1].item() == 0.5
    np.testing.assert_allclose(found, 0.5 * np.array(COUNTS, dtype=float) ** -0.25)


@pytest.mark.parametrize("reweighted", [False, True])
def test_ldam_takes_the_margin_off_the_labels_cosine_and_multiplies_by_30(reweighted, labels):
    codes, classifier = torch.randn(B, 8), CosineClassifier(8, K)
    cosines = F.normalize(codes.double(), dim=1) @ F.normalize(classifier.weight.double(), dim=1).T
    for row, label in enumerate(labels.tolist()):
        cosines[row, label] -= 0.5 * COUNTS[label] ** -0.25 / COUNTS[-1] ** -0.25
    weights = effective_number_weights(torch.tensor(COUNTS)) if reweighted else None
    expected = F.cross_entropy(30 * cosines, labels, weight=weights)
    assert_close(build_loss("ldam-drw", COUNTS, reweighted)(classifier(codes), labels), expected.detach())


def test_cosine_classifier_has_no_bias_and_ignores_lengths():
    classifier, codes = CosineClassifier(8, K), torch.randn(B, 8)
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    torch.testing.assert_close(classifier(5 * codes), classifier(codes))
    before = classifier(codes)
    with torch.no_grad():
        classifier.weight.mul_(torch.rand(K, 1) + 0.5)
    torch.testing.assert_close(classifier(codes), before)
    assert before.abs().max() <= 30


def test_logit_adjustment_adds_the_log_shares_in_training(logits, labels):
    shares = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    expected = F.cross_entropy(logits.double() + shares.log(), labels)
    assert_close(build_loss("logit-adjust", COUNTS)(logits, labels), expected)


@pytest.mark.parametrize(("epochs", "first"), [(200, 160), (90, 72), (12, 10), (5, 4), (2, 2), (1, 1)])
def test_reweighting_begins_at_80_percent_of_the_epochs(epochs, first):
    assert first_reweighted_epoch(epochs) == first


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_no_parameter_and_nothing_to_save(name, logits, labels):
    loss = build_loss(name, COUNTS, reweighted=True)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    logits.requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()


def test_model_keeps_its_weights_names_whatever_the_loss():
    model = PlainClassifier("resnet32", K)
    before = list(model.state_dict())
    model.criterion = build_loss("ldam-drw", COUNTS, reweighted=True)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("name", ["ce", "class-balanced", "logit-adjust"])
@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_probabilities_that_minimise_a_loss_imply_its_shares(name, power):
    """Images that say nothing: the best logits then give the shares; found by descent on the expected loss."""
    counts = (50, 30, 20, 5)
    criterion = build_loss(name, counts).double()
    drawn = torch.tensor(counts, dtype=torch.float64) ** power
    weights = drawn
    if name == "class-balanced":  # of a single image the weighted mean is its loss, without the weight
        weights = drawn * effective_number_weights(torch.tensor(counts))
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def expected_loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.stack([criterion(logits[None], torch.tensor([label])) for label in range(4)])
        total = (weights / weights.sum() * losses).sum()
        total.backward()
        return total

    optimizer.step(expected_loss)
    found = logits.detach().softmax(dim=0)
    torch.testing.assert_close(found, implied_shares(name, counts, power), rtol=1e-4, atol=1e-6)


def test_guessing_by_class_shares_costs_their_entropy_where_the_loss_is_a_likelihood():
    """Of images that say nothing, as many of each class as there are."""
    counts = (50, 30, 20, 5)
    labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
    entropy = torch.special.entr(torch.tensor(counts).double() / sum(counts)).sum().item()
    costs = {}
    for name in LOSSES:
        logits = implied_shares(name, counts, 1.0).log().expand(len(labels), -1)
        costs[name] = build_loss(name, counts).double()(logits, labels).item()
    assert {name for name, cost in costs.items() if cost == pytest.approx(entropy)} == set(LIKELIHOOD_LOSSES)


def test_losses_that_balance_the_classes_are_those_that_learn_other_shares_than_the_images():
    natural = torch.tensor(COUNTS).double() / sum(COUNTS)
    learnt = {name: implied_shares(name, COUNTS, 1.0, reweighted=True) for name in LOSSES}
    assert {name for name, shares in learnt.items() if not torch.allclose(shares, natural)} == set(BALANCING_LOSSES)
