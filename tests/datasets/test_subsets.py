"""Long-tailed subsets, the hold-out and the spread over classes."""

import numpy as np
import pytest

from datasets.subsets import draw_left_over, draw_long_tailed, hold_out, scaled_counts, some_of_each, spread
from utils.errors import UserError

TARGETS = np.arange(300) % 3


def patients(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(targets, groups) of 3000 images of 900 patients: a head class, two rarer ones, one of a single image."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(3, 3000, p=[0.85, 0.12, 0.03])
    return np.append(targets, 3), rng.integers(0, 900, 3001)


def test_subset_has_the_asked_counts_without_repetition():
    chosen = draw_long_tailed(TARGETS, "abc", (50, 20, 3), seed=0)
    assert np.bincount(TARGETS[chosen]).tolist() == [50, 20, 3]
    assert np.all(np.diff(chosen) > 0)


def test_subset_repeats_with_its_seed_and_differs_between_seeds():
    chosen = [draw_long_tailed(TARGETS, "abc", (50, 20, 3), seed).tolist() for seed in (0, 0, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1]
    assert len(set(map(tuple, chosen))) == 5


def test_what_a_seed_draws_never_changes():
    """A published number must stay reproducible."""
    targets = np.arange(30) % 3
    assert draw_long_tailed(targets, "abc", (5, 3, 1), seed=7).tolist() == [4, 6, 8, 9, 12, 21, 22, 25, 27]
    assert hold_out(targets, 3, 0.2, seed=7)[1].tolist() == [3, 5, 13, 19, 20, 27]


def test_classes_are_drawn_independently():
    chosen = draw_long_tailed(TARGETS, "abc", (9, 9, 9), seed=0)
    ranks = [np.flatnonzero(np.isin(np.flatnonzero(label == TARGETS), chosen)) for label in (0, 1)]
    assert not np.array_equal(*ranks)


def test_scaled_counts_are_rounded_and_never_nothing():
    assert scaled_counts((4000, 75, 35, 5, 4, 1), 0.1) == (400, 8, 4, 1, 1, 1)
    assert scaled_counts((900, 7), 2.5) == (2250, 18)
    assert scaled_counts((4000, 40), 1.0) == (4000, 40)


def test_subset_larger_than_its_class_is_refused():
    with pytest.raises(UserError, match="class b has 100 images, the subset needs 101"):
        draw_long_tailed(TARGETS, "abc", (50, 101, 3), seed=0)


def left_over(counts: tuple[int, ...], count: int, groups: np.ndarray | None = None) -> np.ndarray:
    return draw_left_over(TARGETS, "abc", draw_long_tailed(TARGETS, "abc", counts, seed=0), count, 0, groups)


def test_images_left_over_are_as_many_of_each_class_and_the_same_beside_smaller_subsets():
    found = left_over((50, 20, 3), 40)
    assert np.bincount(TARGETS[found]).tolist() == [40] * 3
    assert np.all(np.diff(found) > 0)
    assert not np.intersect1d(found, draw_long_tailed(TARGETS, "abc", (50, 20, 3), seed=0)).size
    assert np.array_equal(left_over((60, 2, 30), 40), found)


def test_group_of_an_image_of_the_subset_leaves_nothing_over():
    groups = np.arange(300) // 6  # two images of each class in a group
    found = left_over((5, 1, 1), 40, groups)
    assert not np.isin(groups[found], groups[draw_long_tailed(TARGETS, "abc", (5, 1, 1), seed=0)]).any()
    assert np.bincount(TARGETS[found]).tolist() == [40] * 3


@pytest.mark.parametrize(
    ("largest", "says"), [(95, "leave 5 of class b over: give at most 5, or "), (100, "leave 0 of class b over: give ")]
)
def test_class_of_which_too_little_is_left_over_is_named(largest, says):
    with pytest.raises(UserError, match=f"--val-per-class 6: the training images {says}--val-fraction"):
        left_over((50, largest, 3), 6)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_hold_out_takes_the_fraction_of_every_class(fraction):
    targets = np.repeat([0, 1, 2], [400, 100, 20])
    kept, held = hold_out(targets, 3, fraction, seed=0)
    assert np.bincount(targets[held]).tolist() == [round(fraction * count) for count in (400, 100, 20)]
    assert np.array_equal(np.union1d(kept, held), np.arange(len(targets)))
    assert len(kept) + len(held) == len(targets)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.01, [1, 1, 0, 0]), (0.5, [2, 1, 0, 0]), (0.99, [4, 1, 0, 0])],
    ids=["little", "half", "most"],
)
def test_hold_out_leaves_each_class_an_image_on_both_sides_and_a_class_of_one_whole(fraction, expected):
    targets = np.repeat([0, 1, 2], [5, 2, 1])  # class 3 has none
    _, held = hold_out(targets, 4, fraction, seed=0)
    assert np.bincount(targets[held], minlength=4).tolist() == expected


def test_hold_out_repeats_with_its_seed_and_differs_between_seeds():
    targets, groups = patients()
    held = [tuple(hold_out(targets, 4, 0.2, seed, groups)[1]) for seed in (0, 0, 1, 2)]
    assert held[0] == held[1]
    assert len(set(held)) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_hold_out_cuts_no_patient_and_stays_stratified(fraction, seed):
    targets, groups = patients(seed)
    kept, held = hold_out(targets, 4, fraction, seed, groups)
    assert len(kept) + len(held) == len(targets)
    assert not np.intersect1d(groups[kept], groups[held]).size
    counts, taken = np.bincount(targets), np.bincount(targets[held], minlength=4)
    assert taken[3] == 0
    assert np.all(np.abs(taken - fraction * counts)[:3] <= 3)


@pytest.mark.parametrize("seed", range(5))
def test_hold_out_lets_rare_classes_choose_their_groups_first(seed):
    """Each image of class 1 has two of class 0 beside it, which are the share of that class."""
    targets = np.array([0] * 10 + [1] * 2)
    groups = np.array([0, 0, 1, 1, *range(2, 8), 0, 1])
    _, held = hold_out(targets, 2, 0.2, seed, groups)
    assert np.bincount(targets[held]).tolist() == [2, 1]


def test_hold_out_empties_no_class_through_another_class_of_a_patient():
    targets = np.array([0] * 10 + [1, 1])
    groups = np.array([0, *range(1, 10), 0, 0])  # patient 0 has all images of class 1
    kept, held = hold_out(targets, 2, 0.5, seed=0, groups=groups)
    assert np.bincount(targets[kept]).tolist() == [5, 2]
    assert np.bincount(targets[held]).tolist() == [5]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1, 1, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (6, [3, 2, 1]), (10, [6, 3, 1]), (99, [6, 3, 1])],
    ids=["one", "classes", "four", "six", "all", "more"],
)
def test_spread_goes_round_the_classes(count, expected):
    targets = np.array([0, 0, 0, 1, 0, 2, 1, 1, 0, 0])
    chosen = spread(targets, count)
    assert np.bincount(targets[chosen]).tolist() == expected
    assert np.all(np.diff(chosen) > 0)


def test_some_of_each_class_are_spread_over_its_list():
    found = some_of_each(np.array([0] * 1000 + [2] * 3 + [1]), 100)
    assert {label: len(rows) for label, rows in found.items()} == {0: 100, 1: 1, 2: 3}
    assert found[0].tolist() == list(range(0, 1000, 10))
    assert [*found[2], *found[1]] == [1000, 1001, 1002, 1003]


@pytest.mark.parametrize(("count", "expected"), [(8, 2), (7, 1), (13, 3), (19, 4)])
def test_share_of_a_class_that_is_held_out_is_rounded(count, expected):
    targets = np.repeat([0, 1], [count, 10])
    _, held = hold_out(targets, 2, 0.2, seed=0)
    assert np.bincount(targets[held]).tolist() == [expected, 2]


def test_spread_takes_the_first_images_of_each_class():
    assert spread(np.array([0, 0, 0, 1, 0, 2, 1, 1, 0, 0]), 4).tolist() == [0, 1, 3, 5]
