"""Draws made ahead: the same on any number of threads, standard normal, and never twice the same."""

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch
from utils.training.noise import AHEAD, ahead, draw

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
    before, caller = torch.get_num_threads(), threading.get_ident()
    torch.set_num_threads(before + 1)  # so that not all have one
    try:
        seen = list(ahead(lambda step: (threading.get_ident(), torch.get_num_threads()), range(50), 2))
        assert {number for thread, number in seen if thread != caller} == {1}
        assert {number for thread, number in seen if thread == caller} <= {before + 1}
    finally:
        torch.set_num_threads(before)


def test_caller_draws_what_none_has_begun_instead_of_waiting():
    begun, drawn, makers = threading.Event(), threading.Event(), {}

    def steps() -> Iterator[int]:
        yield 0
        assert begun.wait(60)
        yield from range(1, AHEAD + 1)

    def make(step: int) -> int:
        makers[step] = threading.get_ident()
        if step == 0:
            begun.set()
            assert drawn.wait(60)  # the only thread is held up until the caller has made all that it may
        elif step == AHEAD:
            drawn.set()
        return step

    assert list(ahead(make, steps(), workers=1)) == list(range(AHEAD + 1))
    assert makers[0] != threading.get_ident()
    assert {makers[step] for step in range(1, AHEAD + 1)} == {threading.get_ident()}


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
