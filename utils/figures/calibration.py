"""The reliability diagram."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay

from utils.figures.reading import Answers
from utils.figures.style import BLUE, GREY, new_figure
from utils.metrics import CALIBRATION_BINS, confidence_error


def reliability(answers: Answers, title: str) -> Figure:
    """Draw the share of correct predictions against their confidence, and how often each confidence occurs."""
    correct = answers.predictions == answers.targets
    error = confidence_error(answers.confidences, correct)
    figure = new_figure(5.4, 6)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    display = CalibrationDisplay.from_predictions(
        correct.astype(int),
        answers.confidences,
        n_bins=CALIBRATION_BINS,
        pos_label=1,
        ax=curve,
        color=BLUE,
        ref_line=False,
        label="predictions",
    )
    display.line_.set_clip_on(False)  # whole markers at 0 and 1
    curve.plot([0, 1], [0, 1], ":", color=GREY, label="perfectly calibrated")
    curve.set(xlim=(0, 1), ylim=(0, 1), xlabel="", ylabel="share of correct predictions")
    curve.set_title(f"{title}\ncalibration error {error:.3f} ({CALIBRATION_BINS} bins)")
    curve.grid(alpha=0.3)
    histogram.hist(answers.confidences, bins=np.linspace(0, 1, CALIBRATION_BINS + 1), color=BLUE, alpha=0.8)
    histogram.axvline(correct.mean(), color=GREY, ls="--", lw=1.2, label="accuracy")
    histogram.axvline(answers.confidences.mean(), color=GREY, lw=1.2, label="mean confidence")
    histogram.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
    handles = [*curve.get_legend_handles_labels()[0], *histogram.get_legend_handles_labels()[0]]
    curve.legend(handles=handles, loc="lower right")
    return figure
