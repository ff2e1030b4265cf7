"""Learning curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from utils.figures.reading import History
from utils.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, new_figure

COLOURS = (BLACK, BLUE, RED, GREEN, ORANGE)
STYLES = ("-", "--", "-.", ":", "-")
LOSSES = {
    "loss": "loss",
    "loss_cls": "classification term",
    "loss_reconst": "squared error",
    "loss_gmm": "mixture term",
}
METRICS = {name: name for name in ("acc", "acsa", "f_ma", "g_ma")}
GROUPS = {name: name for name in ("many", "median", "low")}
RATES = {"lr": "network", "lr_prior": "prior"}


def learning_curves(history: History, title: str) -> Figure:
    """Draw losses, metrics, recall by group and learning rates over the epochs."""
    figure = new_figure(10, 6.4)
    losses, metrics, groups, rates = figure.subplots(2, 2, sharex=True).flat
    split = next((row["split"] for row in history.epochs if row["split"]), "test")
    _curves(losses, history, LOSSES, _loss_title(history), log=True)
    _curves(metrics, history, METRICS, f"metrics, {split} images")
    _curves(groups, history, GROUPS, f"mean recall by training images, {split} images")
    _curves(rates, history, RATES, "learning rate", log=True)
    if history.test:
        _mark_best(metrics, history.test, METRICS)
        _mark_best(groups, history.test, GROUPS)
    for ax in (groups, rates):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    epochs = history.column("epoch")
    rates.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    figure.suptitle(title)
    return figure


def _loss_title(history: History) -> str:
    terms = sum(bool(np.isfinite(history.column(name)).any()) for name in LOSSES)
    return "training loss, and its terms before their weights" if terms > 1 else "training loss"


def _curves(ax: Axes, history: History, names: dict[str, str], title: str, log: bool = False) -> None:
    """Draw columns of metrics.csv over the epochs, those that have a number.

    The log scale is for positive numbers over a decade or more: within one it would have no label.
    """
    epochs, drawn = history.column("epoch"), []
    for (name, label), colour, style in zip(names.items(), COLOURS, STYLES, strict=False):
        values = history.column(name)
        known = np.isfinite(values)
        if known.any():
            marker = "o" if known.sum() <= 30 else None
            ax.plot(epochs[known], values[known], style, color=colour, marker=marker, ms=3, lw=1.4, label=label)
            drawn.append(values[known])
    ax.set_title(title, pad=24)  # the legend is between title and curves
    ax.grid(alpha=0.3)
    if not drawn:
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center", color=GREY)
        return
    low, high = min(map(np.min, drawn)), max(map(np.max, drawn))
    if log and 0 < 10 * low <= high:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    _legend(ax)


def _legend(ax: Axes) -> None:
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=5, frameon=False, columnspacing=1.2)


def _mark_best(ax: Axes, row: dict[str, str], names: Sequence[str]) -> None:
    """Mark the best epoch and what it has on the test set."""
    ax.axvline(float(row["epoch"]), color=GREY, lw=0.8, ls=":")
    for name, colour in zip(names, COLOURS, strict=False):
        if row.get(name):
            ax.plot(float(row["epoch"]), float(row[name]), "*", color=colour, ms=9, mec="white", mew=0.5)
    ax.plot([], [], "*", color=GREY, ms=9, label="best epoch, test images")
    _legend(ax)
