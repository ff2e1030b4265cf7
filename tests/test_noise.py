"""Noise drawn ahead: the same numbers on any number of threads, standard normal, and never twice the same."""

import itertools

import pytest
import torch

from utils.noise import AHEAD, draw, draw_ahead

SIZES = [7] * 20 + [3]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 5, len(SIZES) - 1, len(SIZES)])
def test_numbers_are_those_of_each_step_alone_whatever_draws_them(workers, first):
    ahead = list(draw_ahead(SIZES, 4, 1, 2, first, workers))
    alone = [draw(SIZES[step], 4, 1, 2, step) for step in range(first, len(SIZES))]
    assert len(ahead) == len(alone)
    assert all(torch.equal(a, b) for a, b in zip(ahead, alone, strict=True))


def test_no_two_steps_epochs_or_seeds_share_a_number():
    keys = itertools.product((0, 1), (0, 1), (0, 1))
    numbers = torch.cat([draw(50, 20, *key).flatten() for key in keys])
    assert len(numbers.unique()) > 0.99 * len(numbers)  # float32 repeats a few by chance


def test_numbers_are_standard_normal():
    numbers = torch.stack(list(draw_ahead([100] * 50, 200, 0, 0, 0, workers=2))).double()
    count = numbers.numel()
    for power, moment in enumerate([0, 1, 0, 3, 0, 15], start=1):
        spread = numbers.pow(power).std().item() / count**0.5
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=4 * spread)
    steps = numbers.flatten(1)
    correlations = steps @ steps.T / steps.shape[1]
    assert (correlations - correlations.diag().diag()).abs().max() < 6 / steps.shape[1] ** 0.5


def test_not_more_is_drawn_ahead_than_is_said(monkeypatch):
    asked = []

    def counted(count, dim, seed, epoch, step):
        asked.append(step)
        return torch.zeros(1)

    monkeypatch.setattr("utils.noise.draw", counted)
    ahead = draw_ahead([1] * 100, 1, 0, 0, 0, workers=2)
    next(ahead)
    ahead.close()
    assert len(asked) <= 2 * AHEAD + 1


def test_an_error_of_a_drawing_thread_is_raised(monkeypatch):
    monkeypatch.setattr("utils.noise.draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(draw_ahead(SIZES, 4, 1, 2, 0, workers=1))
