"""Synthetic codes: what an epoch consists of, and the formulas of Case 1 and Case 2."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch

from models.samplers import (
    REP_METHODS,
    FeatureTransferSampler,
    PosteriorSampler,
    class_means,
    scatter_basis,
    to_largest,
    to_next_group,
    transfer_sources,
)
from utils.errors import UserError

D = 6
SAMPLERS = pytest.mark.parametrize("sampler_class", [PosteriorSampler, FeatureTransferSampler])
LONG_TAILED = (130, 110, 30, 7)


@pytest.fixture(autouse=True)
def messages(caplog):
    """The log's records."""
    caplog.set_level(logging.INFO, "dgcmm")
    return caplog


def warnings_in(messages) -> list[str]:
    return [record.message for record in messages.records if record.levelno == logging.WARNING]


def make_codes(counts, dim: int = D):
    """mu, sigma and targets of `counts` codes per class, in mixed order."""
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets))]
    means = 5 * torch.randn(len(counts), dim)
    mu = means[targets] + torch.randn(len(targets), dim)
    return mu, torch.empty(len(targets), dim).uniform_(-3, 0).exp(), targets


def make_sampler(sampler_class, counts=LONG_TAILED, seed: int = 0, **kwargs):
    return sampler_class(*make_codes(counts), len(counts), seed, **kwargs)


def basis_of(centered, rank):
    """The scatter's basis where all codes are of one class with mean 0."""
    return scatter_basis(centered, torch.zeros(1, centered.shape[1]), torch.zeros(len(centered), dtype=int), rank)


def sources_of(sampler, label: int, epoch: int = 0) -> Counter:
    """How often each code serves as `label` in an epoch."""
    sources, labels = sampler.plan(epoch)
    return Counter(sources[labels == label].tolist())


def own_codes(sampler, label: int) -> set[int]:
    return set(torch.nonzero(sampler.targets == label).flatten().tolist())


# Case 2


@pytest.mark.parametrize("counts", [LONG_TAILED, (5, 5), (3, 8, 1)])
def test_every_class_gets_n_max_codes_evenly_from_each_of_its_images(counts):
    sampler = make_sampler(PosteriorSampler, counts)
    for epoch in range(2):
        for label, count in enumerate(counts):
            uses = sources_of(sampler, label, epoch)
            assert uses.total() == max(counts)
            assert uses.keys() == own_codes(sampler, label)
            assert max(uses.values()) - min(uses.values()) <= 1
            assert min(uses.values()) == max(counts) // count


def test_posterior_codes_are_draws_around_the_source_at_every_use():
    sampler = make_sampler(PosteriorSampler)
    sources, labels = (part[:200] for part in sampler.plan(0))
    noise = torch.randn(200, D)
    codes = sampler.codes(sources, labels, noise)
    torch.testing.assert_close(codes, sampler.mu[sources] + sampler.sigma[sources] * noise)
    assert not torch.equal(codes, sampler.codes(sources, labels, torch.randn(200, D)))
    assert len(codes.unique(dim=0)) == 200 > len(sources.unique())


def test_codes_have_the_posteriors_moments():
    mu, sigma, targets = make_codes(LONG_TAILED)
    sampler = PosteriorSampler(mu, sigma, targets, len(LONG_TAILED), 0)
    first = torch.zeros(20_000, dtype=torch.int64)
    draws = sampler.codes(first, targets[first], torch.randn(20_000, D))
    torch.testing.assert_close(draws.mean(dim=0), mu[0], rtol=0, atol=0.05)
    torch.testing.assert_close(draws.var(dim=0), sigma[0].square(), rtol=0.05, atol=0)


# plans


@SAMPLERS
def test_plan_is_a_function_of_seed_and_epoch(sampler_class):
    codes = make_codes(LONG_TAILED)

    def plan(seed, epoch):
        return torch.stack(sampler_class(*codes, len(LONG_TAILED), seed).plan(epoch))

    first = plan(0, 0)
    torch.manual_seed(1)
    assert torch.equal(first, plan(0, 0))
    for other in (plan(0, 1), plan(1, 0)):
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize(
    ("sampler_class", "sources"),
    [
        (PosteriorSampler, [6, 4, 2, 7, 5, 5, 0, 6, 6, 6, 4, 6, 1, 4, 3]),
        (FeatureTransferSampler, [1, 4, 7, 2, 5, 3, 1, 2, 7, 3, 1, 6, 3, 7, 0]),
    ],
)
def test_plan_never_changes(sampler_class, sources):
    """Published results depend on it: a change of these values changes them all."""
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    plan = sampler_class(torch.randn(8, D), torch.ones(8, D), targets, 3, 7).plan(2)
    assert [part.tolist() for part in plan] == [sources, [2, 1, 0, 0, 1, 1, 0, 2, 2, 2, 1, 2, 0, 1, 0]]


@SAMPLERS
def test_plan_of_an_epoch_does_not_depend_on_those_before(sampler_class):
    sampler = make_sampler(sampler_class)
    first = torch.stack(sampler.plan(3))
    sampler.plan(0)
    assert torch.equal(first, torch.stack(sampler.plan(3)))


@SAMPLERS
def test_classes_are_mixed_within_an_epoch(sampler_class):
    _, labels = make_sampler(sampler_class).plan(0)
    assert all(len(batch.unique()) == len(LONG_TAILED) for batch in labels[: len(labels) // 100 * 100].split(100))


def test_additional_images_change_with_the_epoch():
    sampler = make_sampler(PosteriorSampler, (10, 7))
    twice = [
        frozenset(source for source, uses in sources_of(sampler, 1, epoch).items() if uses == 2) for epoch in range(5)
    ]
    assert {len(sources) for sources in twice} == {3}
    assert len(set(twice)) > 1


def test_shuffle_of_an_epoch_is_independent_of_the_order_within_every_class():
    asked = []

    def spy(count, *keys):
        asked.append(keys)
        return torch.arange(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.samplers.permutation", spy)
        make_sampler(PosteriorSampler).plan(2)
    # numpy's SeedSequence pads keys with zeros: (epoch) would be the same as (epoch, class 0)
    assert len({(*keys, 0, 0)[:5] for keys in asked}) == len(LONG_TAILED) + 1


# Case 1


def reference_transfer(sampler, mu, targets, rank, source, label, noise):
    """One new code by the formula, in float64."""
    mu, targets = mu.double().numpy(), targets.numpy()
    means = {c: mu[targets == c].mean(axis=0) for c in set(targets.tolist())}
    scatter = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(mu, targets.tolist(), strict=True))
    basis = np.linalg.eigh(scatter)[1][:, ::-1][:, :rank]
    draw = mu[source] + sampler.sigma[source].double().numpy() * noise.double().numpy()
    origin = int(targets[source])
    return draw if origin == label else means[label] + basis @ basis.T @ (draw - means[origin])


@pytest.mark.parametrize(("rank", "expected"), [(None, 3), (2, 2), (6, 6)])
def test_transferred_codes_equal_the_formula(rank, expected):
    mu, sigma, targets = make_codes(LONG_TAILED)
    sampler = FeatureTransferSampler(mu, sigma, targets, len(LONG_TAILED), 0, rank)
    sources, labels = (part[:100] for part in sampler.plan(0))
    assert 20 < (targets[sources] != labels).sum() < 80  # both kinds
    noise = torch.randn(100, D)
    codes = sampler.codes(sources, labels, noise)
    triples = zip(sources.tolist(), labels.tolist(), noise, strict=True)
    reference = np.stack([reference_transfer(sampler, mu, targets, expected, *triple) for triple in triples])
    np.testing.assert_allclose(codes.numpy(), reference, atol=1e-4)


def test_means_and_scatter_in_parts_are_those_of_all_codes(monkeypatch):
    mu, _, targets = make_codes(LONG_TAILED)
    means = torch.stack([mu[targets == c].mean(dim=0) for c in range(len(LONG_TAILED))])
    torch.testing.assert_close(class_means(mu, targets, len(LONG_TAILED)), means)
    whole = scatter_basis(mu, means, targets, 3)
    centered = (mu - means[targets]).double()
    reference = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -3:].float()
    torch.testing.assert_close(whole @ whole.T, reference @ reference.T)
    monkeypatch.setattr("models.samplers.ROWS", 10)
    torch.testing.assert_close(class_means(mu, targets, len(LONG_TAILED)), means)
    parts = scatter_basis(mu, means, targets, 3)
    torch.testing.assert_close(parts @ parts.T, whole @ whole.T)


def test_own_codes_come_once_and_foreign_ones_evenly_from_the_pool():
    sampler = make_sampler(FeatureTransferSampler)
    for label, (pool, count) in enumerate([([], 130), ([0], 110), ([0, 1], 30), ([0, 1], 7)]):
        uses, own = sources_of(sampler, label), own_codes(sampler, label)
        foreign = {source: n for source, n in uses.items() if source not in own}
        assert [uses[source] for source in own] == [1] * count
        assert uses.total() == 130
        assert {int(sampler.targets[source]) for source in foreign} <= set(pool)
        assert max(foreign.values(), default=0) <= 1


def test_small_pool_is_gone_round_evenly():
    sampler = make_sampler(FeatureTransferSampler, (3, 1), wanted=lambda counts: [3, 9])
    uses = sources_of(sampler, 1)
    assert sorted(uses[source] for source in own_codes(sampler, 0)) == [2, 3, 3]


def test_rep_method_decides_how_many_codes_a_class_gets():
    sampler = make_sampler(FeatureTransferSampler, (130, 110, 30, 25, 7), wanted=to_next_group)
    assert torch.bincount(sampler.plan(0)[1]).tolist() == [130, 110, 110, 110, 25]


@pytest.mark.parametrize(
    ("counts", "sources", "warned"),
    [
        ((130, 110, 30, 7), [[], [0], [0, 1], [0, 1]], False),
        ((7, 30, 110, 130), [[2, 3], [2, 3], [3], []], False),
        ((130, 130, 110, 7), [[], [], [0, 1], [0, 1, 2]], False),
        ((101, 100, 99), [[], [0], [0]], False),
        ((100, 60, 60, 5), [[], [0], [0], [0, 1, 2]], True),
        ((5, 5), [[], []], True),
    ],
    ids=["long-tailed", "any order", "ties", "more than 100", "no many-shot class", "balanced and small"],
)
def test_codes_are_taken_from_larger_classes(messages, counts, sources, warned):
    assert transfer_sources(counts) == sources
    assert len(warnings_in(messages)) == warned


def test_largest_class_gets_no_foreign_code():
    sampler = make_sampler(FeatureTransferSampler)
    assert sources_of(sampler, 0) == Counter(own_codes(sampler, 0))


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ((500, 300, 80, 40, 12, 5), [500, 300, 300, 300, 40, 40]),
        ((101, 100, 20, 19), [101, 101, 101, 20]),
        ((500, 300, 12, 5), [500, 300, 300, 300]),
        ((80, 40, 12), [80, 40, 40]),
        ((12, 5), [12, 5]),
        ((500, 80, 40), [500, 500, 500]),
        ((500, 300), [500, 300]),
    ],
    ids=["all groups", "limits", "no median", "no many-shot", "low only", "no low", "many-shot only"],
)
def test_rep_nums2_lifts_each_group_to_the_next(counts, wanted):
    assert REP_METHODS["get_rep_nums2"](counts) == wanted


@pytest.mark.parametrize("counts", [(500, 80, 5), (3, 7), (4,)])
def test_rep_nums1_lifts_every_class_to_the_largest(counts):
    assert REP_METHODS["get_rep_nums1"](counts) == [max(counts)] * len(counts)
    assert make_sampler(FeatureTransferSampler, counts).wanted == to_largest(counts)


@pytest.mark.parametrize(("rank", "expected"), [(None, 4), (1, 1), (8, 8)])
def test_basis_is_orthonormal_and_leading(rank, expected):
    widths = torch.tensor([1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0])
    basis = basis_of(widths * torch.randn(5000, 8), rank)
    assert basis.shape == (8, expected)
    torch.testing.assert_close(basis.T @ basis, torch.eye(expected))
    kept = basis.square().sum(dim=1)  # 1 for an axis within the basis
    widest = widths.argsort(descending=True)[:expected]
    assert kept[widest].min() > 0.9


def test_codes_of_length_1_have_a_basis_too():
    assert basis_of(torch.randn(50, 1), None).abs().tolist() == [[1.0]]


def test_rank_does_not_fall_with_the_number_of_codes():
    """A direction of a ten-thousandth of the largest spread is above what float32 rounds, of however many codes."""
    widths = torch.logspace(0, -4, 8)
    assert basis_of(widths * torch.randn(200_000, 8), 8).shape == (8, 8)


@pytest.mark.parametrize("rank", [None, 8, 2])
def test_rank_is_capped_at_the_scatters_and_said(messages, rank):
    centered = torch.randn(50, 2) @ torch.randn(2, 8)
    assert basis_of(centered, rank).shape == (8, 2)
    line = messages.records[-1].message
    assert "rank 2 of 8" in line
    assert ("as many as the scatter" in line) == (rank != 2)


# too few images


@SAMPLERS
@pytest.mark.parametrize("counts", [(120, 30, 1), (3, 1), (1, 1), (1,)])
def test_class_with_one_image_gives_finite_codes(sampler_class, counts):
    sampler = make_sampler(sampler_class, counts)
    sources, labels = sampler.plan(0)
    assert torch.bincount(labels).tolist() == [max(counts)] * len(counts)
    assert torch.isfinite(sampler.codes(sources, labels, torch.randn(len(sources), D))).all()


@SAMPLERS
def test_class_without_an_image_is_an_error(sampler_class):
    with pytest.raises(UserError, match="class 1 has no training code"):
        make_sampler(sampler_class, (5, 0, 3))


def test_sampler_of_many_classes_holds_little_beside_the_codes():
    """The codes that 900 small classes take theirs from are the same 10,100, and not kept for each."""
    sampler = make_sampler(FeatureTransferSampler, counts=[101] * 100 + [1] * 900)
    parts = [part for value in vars(sampler).values() for part in (value if isinstance(value, list) else [value])]
    assert sum(part.nbytes for part in parts if isinstance(part, torch.Tensor)) < 1e6


def test_codes_that_are_one_in_each_class_have_no_spread_to_transfer():
    means, targets = torch.randn(3, 8), torch.arange(30) % 3
    assert scatter_basis(means[targets], means, targets, None).shape == (8, 0)
