"""Learning curves show the columns of metrics.csv, and of a hold-out the best epoch with its test numbers."""

import numpy as np
import pytest

from utils.figures.curves import learning_curves
from utils.figures.reading import read_history
from utils.files import write_table

NUMBERS = ("loss", "loss_cls", "loss_gmm", "acc", "acsa", "f_ma", "g_ma", "many", "median", "low", "lr", "lr_prior")


@pytest.fixture
def written(tmp_path):
    """A metrics.csv of four epochs, of which every second is measured, and of the best on the test set."""
    rng = np.random.default_rng(0)
    rows = [{"epoch": n, "split": "val", **dict(zip(NUMBERS, rng.random(12), strict=True))} for n in range(1, 5)]
    for row in rows[::2]:
        row |= dict.fromkeys(("split", "acc", "acsa", "f_ma", "g_ma", "many", "median", "low"))
    test = {"epoch": 2, "split": "test", **dict.fromkeys(NUMBERS), "acc": 0.8, "acsa": 0.7, "many": 0.9, "low": 0.1}
    write_table(tmp_path / "metrics.csv", ["epoch", "split", *NUMBERS], [*rows, test])
    return tmp_path / "metrics.csv", rows, test


def curves_of(ax):
    """Name -> epochs and values."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.get_lines()}


def stars_of(ax):
    stars = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_marker() == "*"]
    return [points[0] for points in stars if points]  # that of the legend has none


def test_each_curve_is_its_column_over_the_epochs_that_have_it(written):
    path, rows, _ = written
    losses, metrics, groups, rates = learning_curves(read_history(path), "a run").axes
    columns = {(losses, "loss"): "loss", (losses, "mixture term"): "loss_gmm", (metrics, "acsa"): "acsa"}
    columns |= {(groups, "low"): "low", (rates, "network"): "lr", (rates, "prior"): "lr_prior"}
    for (ax, label), name in columns.items():
        there = [row for row in rows if row[name] is not None]
        assert curves_of(ax)[label] == ([row["epoch"] for row in there], [row[name] for row in there])
    assert "squared error" not in curves_of(losses)
    assert "val images" in metrics.get_title()


def test_best_epoch_is_marked_with_its_numbers_on_the_test_set(written):
    path, _, test = written
    _, metrics, groups, _ = learning_curves(read_history(path), "a run").axes
    assert stars_of(metrics) == [[2, test["acc"]], [2, test["acsa"]]]
    assert stars_of(groups) == [[2, test["many"]], [2, test["low"]]]
    assert "best epoch, test images" in [text.get_text() for text in metrics.get_legend().get_texts()]
