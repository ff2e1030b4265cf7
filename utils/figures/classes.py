"""Figures class by class: recall against training images, and who is taken for whom."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from utils.choice import by_size
from utils.figures.reading import Answers, ClassResults
from utils.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    NAMED,
    RED,
    fit,
    group_spans,
    new_figure,
    shade_groups,
    some_ticks,
)
from utils.training.layout import RESULTS

MARKERS = {"": ("o", BLACK), "_aug_ftl": ("^", RED), "_aug": ("s", BLUE), "_eval": ("D", GREEN)}
CELLS = 100  # along a side of a confusion matrix; beyond it, cells are of several classes


def recall_by_size(results: Mapping[str, ClassResults], title: str, titles: Mapping[str, str] = RESULTS) -> Figure:
    """Draw the recall of each class, from the class with the most training images to the one with the fewest.

    Args:
        results: suffix of a script -> what it measured, all of the same classes.
        title: of the figure.
        titles: of the scripts' results, by suffix.
    """
    first = next(iter(results.values()))
    order, num_classes = by_size(first.counts), len(first.names)
    counts, names = first.counts[order], [first.names[c] for c in order]
    figure = new_figure(min(max(6.5, 0.6 * num_classes + 2.5), 11), 5)
    ax = figure.subplots()
    patches = shade_groups(ax, counts)
    for number, (suffix, found) in enumerate(results.items()):
        recalls, (marker, colour) = found.recalls[order], MARKERS[suffix]
        label = f"{titles[suffix]}: acsa {np.nan_to_num(recalls).mean():.3f}"  # a class without images counts as 0
        places = np.arange(num_classes) + (0.16 * (number - (len(results) - 1) / 2) if num_classes <= NAMED else 0)
        if num_classes <= NAMED:
            face = "none" if suffix == "" else colour
            ax.plot(places, recalls, marker, color=colour, mfc=face, ms=6, label=label, clip_on=False)
        else:
            window = 2 * (max(num_classes // 20, 3) // 2) + 1
            ax.plot(places, recalls, marker, color=colour, ms=3, mew=0, alpha=0.35, clip_on=False)
            line = f"{label}, line: mean of {window} classes"
            ax.plot(places, running_mean(recalls, window), color=colour, lw=2, label=line)
    ax.set(xlim=(-0.5, num_classes - 0.5), ylim=(0, 1), ylabel="recall", title=title)
    ax.grid(axis="y", alpha=0.4)
    _name_classes(ax, names, counts)
    handles = ax.get_legend_handles_labels()[0] + patches
    columns = 3 if titles == RESULTS else 2  # longer ones
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average over windows of an odd width, shorter at the ends; NaNs do not count: (K,) -> (K,)."""
    ones = np.ones(window)
    known = np.isfinite(values)
    sums = np.convolve(np.where(known, values, 0.0), ones, mode="same")
    numbers = np.convolve(known, ones, mode="same")
    return np.divide(sums, numbers, out=np.full(len(values), np.nan), where=numbers > 0)


def _name_classes(ax: Axes, names: list[str], counts: np.ndarray) -> None:
    """Write the training images, and the names where there is room, below the places 0 to K - 1."""
    if len(names) > NAMED:
        ticks = some_ticks(len(names))
        ax.set_xticks(ticks, [f"{counts[tick]:,}" for tick in ticks])
        ax.set_xlabel(f"training images of the class ({len(names)} classes, from the largest to the smallest)")
        return
    short = max(map(len, names)) <= 6
    labels = [fit(name) + ("\n" if short else ", ") + f"{count:,}" for name, count in zip(names, counts, strict=True)]
    style = {} if short else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(names)), labels, **style)
    ax.set_xlabel("class, training images")


def confusion(answers: Answers, classes: ClassResults, title: str) -> Figure:
    """Draw which share of each class is taken for which; classes stand from the largest to the smallest."""
    order, num_classes = by_size(classes.counts), len(classes.names)
    shares = 100 * confusion_matrix(answers.targets, answers.predictions, labels=order, normalize="true")
    block = math.ceil(num_classes / CELLS)
    starts = np.arange(0, num_classes, block)
    sizes = np.diff([*starts, num_classes])
    cells = np.add.reduceat(np.add.reduceat(shares, starts, axis=0), starts, axis=1) / sizes[:, None]
    named = num_classes <= NAMED
    side = max(4.6, 0.42 * num_classes + 2.2) if named else 7.5
    figure = new_figure(side + 1, side)
    ax = figure.subplots()
    display = ConfusionMatrixDisplay(cells)
    display.plot(
        ax=ax,
        cmap="cividis",
        colorbar=False,
        include_values=named,
        values_format=".0f",
        im_kw={"norm": PowerNorm(0.5, vmin=0, vmax=100), "interpolation": "nearest"},
        text_kw={"fontsize": 8},
    )
    for text in display.text_.flat if named else ():
        text.set_in_layout(False)  # they lie within their cells, and measuring them takes time
    figure.colorbar(display.im_, ax=ax, label="percent of the class's images", shrink=0.8)
    if named:
        ticks, labels = range(num_classes), [fit(classes.names[c]) for c in order]
        what = "from the largest to the smallest"
    else:
        ticks = some_ticks(len(starts))
        labels = [f"{classes.counts[order[starts[tick]]]:,}" for tick in ticks]
        what = "its training images"
    ax.set_xticks(ticks, labels, rotation=90 if named and max(map(len, labels)) > 3 else 0)
    ax.set_yticks(ticks, labels)
    for first, _ in list(group_spans(classes.counts[order]).values())[1:]:
        for line in (ax.axhline, ax.axvline):
            line(first / block - 0.5, color="white", lw=0.8, ls="--")
    if block > 1:
        title += f"\n{num_classes} classes, {block} by {block} in a cell"
    ax.set(title=title, xlabel=f"prediction ({what})", ylabel=f"class ({what})")
    return figure
