"""What is shown of many classes and many images."""

import numpy as np

from utils.choice import images_of, some_classes


def test_all_classes_from_the_largest_to_the_smallest_where_there_is_room():
    assert some_classes([5, 90, 5, 20], 4).tolist() == [1, 3, 0, 2]


def test_some_of_many_classes_have_all_sizes_with_both_ends():
    counts = list(range(1000, 0, -1))
    assert some_classes(counts, 3).tolist() == [0, 500, 999]


def test_images_go_round_the_classes_so_that_small_ones_are_whole():
    targets = np.array([0] * 50 + [1] * 3 + [2] * 50 + [3] * 50)
    chosen = images_of([0, 1, 3], targets, 20)
    assert np.bincount(targets[chosen], minlength=4).tolist() == [9, 3, 0, 8]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert images_of([1], targets, 20).tolist() == [50, 51, 52]
