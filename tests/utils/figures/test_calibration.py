"""The reliability diagram shows the share of correct predictions of each confidence."""

import numpy as np
import pytest

from utils.figures.calibration import reliability
from utils.figures.reading import Answers


def test_curve_and_histogram_are_those_of_a_small_example():
    confidences = np.array([0.62, 0.62, 0.62, 0.62, 0.95, 0.95])
    predictions, targets = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])  # three of four, and both
    figure = reliability(Answers(targets, predictions, confidences), "a run")
    curve, histogram = figure.axes
    shown = next(line for line in curve.get_lines() if line.get_label() == "predictions")
    np.testing.assert_allclose(shown.get_xydata(), [[0.62, 0.75], [0.95, 1.0]])
    heights = {round(bar.get_x(), 3): bar.get_height() for bar in histogram.patches if bar.get_height()}
    assert heights == {0.6: 4, 0.933: 2}
    lines = {line.get_label(): line.get_xdata()[0] for line in histogram.get_lines()}
    assert lines == pytest.approx({"accuracy": 5 / 6, "mean confidence": (4 * 0.62 + 2 * 0.95) / 6})
    error = (4 * 0.13 + 2 * 0.05) / 6
    assert f"calibration error {error:.3f}" in curve.get_title()
