"""Sheets show each image where its labels say that it is."""

import numpy as np

from utils.figures.sheets import GAP, reconstructions, samples

SIDE = 4


def tiles(ax):
    """Cut the picture that is shown into its images, (R,C,S,S,3)."""
    picture = np.asarray(ax.get_images()[0].get_array())
    starts = [range(0, length, SIDE + GAP) for length in picture.shape[:2]]
    return np.array([[picture[y : y + SIDE, x : x + SIDE] for x in starts[1]] for y in starts[0]])


def drawn(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


def test_reconstructions_are_below_their_images():
    images = drawn(2, 5)
    labels = np.array(list("abcde"))
    (ax,) = reconstructions({"inputs": images[0], "reconstructions": images[1], "labels": labels}, "a run").axes
    assert np.array_equal(tiles(ax), images)
    assert [text.get_text() for text in ax.get_xticklabels()] == list("abcde")
    assert ax.get_xticks()[1] == SIDE + GAP + SIDE / 2
    assert [text.get_text() for text in ax.get_yticklabels()] == ["image", "rebuilt"]


def test_samples_of_a_component_are_in_its_row_the_mean_first():
    images = drawn(3, 8)
    pictures = {"samples": images, "components": np.array(list("abc")), "num_classes": np.array(7)}
    (ax,) = samples(pictures, "a run").axes
    assert np.array_equal(tiles(ax), images)
    assert [text.get_text() for text in ax.get_yticklabels()] == list("abc")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["mean", *[""] * 7]
    assert ax.get_title() == "a run\n3 of 7, from the largest class to the smallest"
