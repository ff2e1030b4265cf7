"""Figures class by class: what is drawn, and under which label."""

import numpy as np
import pytest

from utils.figures.classes import confusion, recall_by_size, running_mean
from utils.figures.reading import Answers, ClassResults

CLASSES = ClassResults(["few", "most", "some"], np.array([3, 500, 40]), np.array([0.25, 0.75, 0.5]))


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_confusion_has_a_row_for_each_class_from_the_largest_to_the_smallest():
    targets, predictions = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 1, 1, 1, 2, 2, 0])
    ax = confusion(Answers(targets, predictions, np.ones(10)), CLASSES, "run").axes[0]
    assert ax.images[0].get_array().tolist() == [[75, 25, 0], [0, 50, 50], [75, 0, 25]]
    assert [text.get_text() for text in ax.texts] == ["75", "25", "0", "0", "50", "50", "75", "0", "25"]
    assert labels_of(ax.xaxis) == labels_of(ax.yaxis) == ["most", "some", "few"]
    assert (ax.get_xlabel().split()[0], ax.get_ylabel().split()[0]) == ("prediction", "class")


def test_cell_of_several_classes_has_their_mean_share_of_each_prediction():
    """Of 202 classes, three in a cell; all images of the three largest are taken for the smallest."""
    names, counts = [f"c{number}" for number in range(202)], np.arange(202, 0, -1)
    targets = np.arange(202)
    predictions = np.where(targets < 3, 201, targets)
    classes = ClassResults(names, counts, np.ones(202))
    cells = confusion(Answers(targets, predictions, np.ones(202)), classes, "run").axes[0].images[0].get_array()
    expected = 100 * np.eye(68)
    expected[0] = expected[-1]
    np.testing.assert_allclose(cells, expected)


def test_recalls_stand_over_their_classes_from_the_largest_to_the_smallest():
    again = CLASSES._replace(recalls=np.array([np.nan, 0.9, 0.6]))
    ax = recall_by_size({"": CLASSES, "_aug": again}, "run").axes[0]
    handles, labels = ax.get_legend_handles_labels()
    assert labels[:2] == ["trained: acsa 0.500", "Case 2: acsa 0.500"]
    np.testing.assert_array_equal(
        [handle.get_ydata() for handle in handles[:2]], [[0.75, 0.5, 0.25], [0.9, 0.6, np.nan]]
    )
    np.testing.assert_allclose(np.mean([handle.get_xdata() for handle in handles[:2]], axis=0), [0, 1, 2], atol=1e-12)
    assert labels_of(ax.xaxis) == ["most\n500", "some\n40", "few\n3"]


def test_results_are_named_by_the_titles_that_are_given():
    titles = {"": "trained, model of epoch 2", "_aug": "Case 2, model of epoch 3"}
    titles |= {"_aug_ftl": "Case 1, model of epoch 100"}
    figure = recall_by_size(dict.fromkeys(titles, CLASSES), "run", titles)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[:3] == [f"{title}: acsa 0.500" for title in titles.values()]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1


def test_many_median_and_low_are_shaded_and_named():
    """Of five classes three have more than 100 images, and one each 20 to 100 and fewer than 20."""
    classes = ClassResults([*"abcde"], np.array([3, 900, 40, 200, 101]), np.ones(5))
    figure = recall_by_size({"": classes}, "run")
    shades = {patch.get_facecolor(): (patch.get_x(), patch.get_width()) for patch in figure.axes[0].patches}
    assert list(shades.values()) == [(-0.5, 3), (2.5, 1), (3.5, 1)]
    (legend,) = figure.legends
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == ["trained", "many", "median", "low"]
    assert [patch.get_facecolor() for patch in legend.get_patches()] == list(shades)


@pytest.mark.parametrize(
    ("values", "window", "means"),
    [
        ([1, 4, 7, 1], 3, [2.5, 4, 4, 4]),
        ([1, np.nan, 3, np.nan, np.nan, np.nan], 3, [1, 2, 3, 3, np.nan, np.nan]),
        ([1, 4, 7, 1, 2], 5, [4, 3.25, 3, 3.5, 10 / 3]),
    ],
    ids=["ends", "unknown", "wide"],
)
def test_running_mean_is_of_the_values_that_are_there(values, window, means):
    np.testing.assert_allclose(running_mean(np.array(values), window), means)
