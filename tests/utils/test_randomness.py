"""Draws are functions of their keys, and of nothing else."""

import itertools

import numpy as np
import pytest
import torch

from utils.randomness import (
    Stream,
    derive_seed,
    generator,
    global_seed,
    mixing_share,
    permutation,
    standard_normal,
)


def test_every_key_gives_its_own_seed():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
    seeds = [derive_seed(s, stream, *key) for s, stream, key in itertools.product((0, 1, 2**32 + 5), Stream, keys)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_never_change():
    """A published number must stay reproducible."""
    names = (
        *("ORDER", "TRANSFORM", "CODE_NOISE", "SUBSET", "HOLD_OUT", "INITIALISATION", "DUMMY_IMAGE"),
        *("AUGMENTATION_PLAN", "MIXUP", "SAMPLES", "CORRUPTION"),
    )
    assert dict(Stream.__members__) == {name: number for number, name in enumerate(names, start=1)}
    assert derive_seed(0, Stream.ORDER, 0) == 2316410312047398653
    assert permutation(5, 0, Stream.ORDER, 0).tolist() == [4, 2, 0, 1, 3]
    noise = torch.randn(2, 3, generator=generator(7, Stream.CODE_NOISE, 1, 2))
    assert torch.equal(standard_normal(2, 3, seed=7, epoch=1, step=2), noise)
    share = np.random.default_rng(derive_seed(7, Stream.MIXUP, 1, 2)).beta(0.5, 0.5)
    assert mixing_share(0.5, seed=7, epoch=1, step=2) == share


def test_generator_repeats():
    one, two = (torch.randn(3, generator=generator(1, Stream.CODE_NOISE, 2, 3)) for _ in range(2))
    assert torch.equal(one, two)


def test_global_generator_is_put_back():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with global_seed(1, Stream.TRANSFORM, 4):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with global_seed(1, Stream.TRANSFORM, 4):
        assert torch.equal(torch.rand(2), first)


def test_no_two_steps_epochs_or_seeds_share_a_number():
    keys = itertools.product((0, 1), (0, 1), (0, 1))
    numbers = torch.cat([standard_normal(50, 20, *key).flatten() for key in keys])
    assert len(numbers.unique()) > 0.99 * len(numbers)  # float32 repeats a few by chance


def test_numbers_are_standard_normal():
    numbers = torch.stack([standard_normal(100, 200, 0, 0, step) for step in range(50)]).double()
    count = numbers.numel()
    for power, moment in enumerate([0, 1, 0, 3, 0, 15], start=1):
        spread = numbers.pow(power).std().item() / count**0.5
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=4 * spread)
    steps = numbers.flatten(1)
    correlations = steps @ steps.T / steps.shape[1]
    assert (correlations - correlations.diag().diag()).abs().max() < 6 / steps.shape[1] ** 0.5
