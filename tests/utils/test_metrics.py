"""Metrics against their definitions, and what is undefined."""

import numpy as np
import pytest

from helpers.project import METRIC_NAMES
from utils.metrics import (
    Measurement,
    Predictions,
    calibration_error,
    class_aucs,
    compute_metrics,
    confidence_error,
    exact,
    mutual_information,
    per_class_metrics,
    shot_group,
)

TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 2, 0, 1])
COUNTS = [500, 50, 5]


def one_hot(labels: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes)[labels] * 0.8 + 0.1


def test_every_metric_equals_its_definition():
    confusion = np.zeros((3, 3))
    for target, prediction in zip(TARGETS, PREDICTED, strict=True):
        confusion[target, prediction] += 1
    tp = np.diag(confusion)
    fn, fp = confusion.sum(1) - tp, confusion.sum(0) - tp
    tn = confusion.sum() - tp - fn - fp
    recall, precision, specificity = tp / (tp + fn), tp / (tp + fp), tn / (tn + fp)
    f1 = 2 * precision * recall / (precision + recall)
    found = compute_metrics(TARGETS, one_hot(PREDICTED), COUNTS)
    assert found == pytest.approx(
        {
            "acc": tp.sum() / confusion.sum(),
            "acsa": recall.mean(),
            "pre_ma": precision.mean(),
            "rec_ma": recall.mean(),
            "spe_ma": specificity.mean(),
            "f_ma": f1.mean(),
            "f_mi": tp.sum() / confusion.sum(),
            "g_ma": np.sqrt(recall * specificity).mean(),
            "g_mi": np.sqrt(tp.sum() / (tp + fn).sum() * tn.sum() / (tn + fp).sum()),
            "auc": np.mean([(recall[c] + specificity[c]) / 2 for c in range(3)]),  # two-valued scores
            "many": recall[0],
            "median": recall[1],
            "low": recall[2],
        }
    )
    assert tuple(found) == METRIC_NAMES


def test_always_the_head_class_of_chestxray():
    """The figures of a classifier that answers 'No Finding' on the official test list."""
    counts = [9861, 801, 316, 1167, 2220, 443, 457, 88, 953, 481, 231, 305, 176, 309, 45]
    targets = np.repeat(np.arange(15), counts)
    found = compute_metrics(targets, one_hot(np.zeros_like(targets), 15), counts)
    rounded = {name: round(found[name], 4) for name in ("acc", "acsa", "f_ma", "g_ma")}
    assert rounded == {"acc": 0.5523, "acsa": 0.0667, "f_ma": 0.0474, "g_ma": 0.0}


def test_undefined_is_none_and_never_nan():
    found = compute_metrics(np.zeros(4, dtype=int), one_hot(np.zeros(4, dtype=int)), [500, 500, 500])
    assert found["auc"] is None
    assert found["median"] is None
    assert found["low"] is None
    assert all(value is None or np.isfinite(value) for value in found.values())


def test_auc_leaves_out_classes_without_positives():
    targets, probabilities = (
        np.array([0, 0, 1, 1]),
        np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.5, 0.5, 0], [0.1, 0.9, 0]]),
    )
    assert class_aucs(targets, probabilities)[2] is None
    assert compute_metrics(targets, probabilities, COUNTS)["auc"] == pytest.approx(0.75)


def test_class_without_test_images_counts_with_a_recall_of_0():
    found = compute_metrics(np.array([0, 0, 1, 1]), one_hot(np.array([0, 0, 1, 0])), COUNTS)
    assert found["acsa"] == found["rec_ma"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["low"] == 0


def test_per_class_rows():
    rows = per_class_metrics(TARGETS, one_hot(PREDICTED), COUNTS, ["a", "b", "c"])
    assert [(row["class"], row["group"], row["images"]) for row in rows] == [
        ("a", "many", 4),
        ("b", "median", 3),
        ("c", "low", 3),
    ]
    assert [row["recall"] for row in rows] == pytest.approx([0.75, 2 / 3, 1 / 3])
    found = compute_metrics(TARGETS, one_hot(PREDICTED), COUNTS)
    means = {"recall": "rec_ma", "precision": "pre_ma", "f1": "f_ma", "specificity": "spe_ma", "auc": "auc"}
    assert len({round(found[name], 6) for name in means.values()}) == len(means)
    for column, name in means.items():
        assert np.mean([row[column] for row in rows]) == pytest.approx(found[name])


@pytest.mark.parametrize(("images", "group"), [(101, "many"), (100, "median"), (20, "median"), (19, "low")])
def test_group_borders(images, group):
    assert shot_group(images) == group


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_written_with_as_many_digits_as_they_have(dtype):
    probabilities = np.random.default_rng(0).random(1000, dtype=dtype) ** 4
    assert np.array_equal(np.array(exact(probabilities), dtype), probabilities)


def test_probabilities_in_float32_have_no_more_digits_than_that():
    assert exact(np.array([0.1, 1.0], np.float32)) == ["0.100000001", "1"]


def test_mutual_information_of_a_match_and_of_none():
    labels = np.repeat(np.arange(4), 5)
    assert mutual_information(labels[::-1], labels) == pytest.approx(np.log(4))
    assert mutual_information(np.zeros(20, dtype=int), labels) == pytest.approx(0)


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_images():
    """In fifteen bins the third and fourth confidence share one, and the first and second do not."""
    confidences = np.array([0.52, 0.58, 0.61, 0.66, 0.95, 0.97, 1.0])
    correct = np.array([True, False, True, False, True, True, False])
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    gaps = [1 - 0.52, 0.58, 2 * abs(0.5 - 0.635), 3 * abs(2 / 3 - 2.92 / 3)]
    assert calibration_error(np.where(correct, 0, 1), probabilities) == pytest.approx(sum(gaps) / 7)
    assert confidence_error(confidences, correct) == pytest.approx(sum(gaps) / 7)


def test_calibration_error_of_a_sure_and_right_model_is_0_and_of_a_sure_and_wrong_one_1():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert calibration_error(np.array([0, 1, 2, 0]), sure) == 0
    assert calibration_error(np.array([1, 2, 0, 1]), sure) == 1


def test_confidence_on_a_border_belongs_to_the_lower_bin():
    border = 9 / 15
    targets = np.array([0, 1])  # the first is right, the second wrong

    def error_of(*confidences: float) -> float:
        return calibration_error(targets, np.array([[share, 1 - share] for share in confidences]))

    assert error_of(border, border + 1e-6) == pytest.approx(0.5, abs=1e-5)  # |1 - 0.6| and |0 - 0.6|
    assert error_of(border, border - 1e-6) == pytest.approx(0.1, abs=1e-5)  # |0.5 - 0.6|


def test_component_is_live_if_it_is_the_most_responsible_one_of_an_image():
    def live(components: list[int]) -> int | None:
        targets = np.array([0, 0, 1, 2])
        found = Predictions(np.arange(4), targets, one_hot(targets), np.array(components))
        return Measurement.of(found, np.array(list("abcd")), "xyz", COUNTS).numbers["live_components"]

    assert live([0, 0, 2, 2]) == 2
    assert live([-1] * 4) is None
