"""Draws made ahead: the same on any number of threads, standard normal, and never twice the same."""

import itertools
import threading

import pytest
import torch

from utils.noise import AHEAD, ahead, draw

STEPS = 21


def numbers_of(step: int) -> torch.Tensor:
    return draw(7 if step < STEPS - 1 else 3, 4, 1, 2, step)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 5, STEPS - 1, STEPS])
def test_draws_are_those_of_each_step_alone_whatever_makes_them(workers, first):
    made = list(ahead(numbers_of, range(first, STEPS), workers))
    alone = [numbers_of(step) for step in range(first, STEPS)]
    assert len(made) == len(alone)
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))


def test_threads_that_draw_compute_alone_and_leave_the_others_theirs():
    before = torch.get_num_threads()
    seen = list(ahead(lambda step: (threading.get_ident(), torch.get_num_threads()), range(9), 2))
    assert {number for _, number in seen} == {1}
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert torch.get_num_threads() == before


def test_no_two_steps_epochs_or_seeds_share_a_number():
    keys = itertools.product((0, 1), (0, 1), (0, 1))
    numbers = torch.cat([draw(50, 20, *key).flatten() for key in keys])
    assert len(numbers.unique()) > 0.99 * len(numbers)  # float32 repeats a few by chance


def test_numbers_are_standard_normal():
    numbers = torch.stack([draw(100, 200, 0, 0, step) for step in range(50)]).double()
    count = numbers.numel()
    for power, moment in enumerate([0, 1, 0, 3, 0, 15], start=1):
        spread = numbers.pow(power).std().item() / count**0.5
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=4 * spread)
    steps = numbers.flatten(1)
    correlations = steps @ steps.T / steps.shape[1]
    assert (correlations - correlations.diag().diag()).abs().max() < 6 / steps.shape[1] ** 0.5


def test_not_more_is_drawn_ahead_than_is_said():
    asked = []
    made = ahead(asked.append, range(100), workers=2)
    next(made)
    made.close()
    assert len(asked) <= 2 * AHEAD + 1


def test_an_error_of_a_drawing_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda step: 1 / step, range(3), workers=1))
