"""How figures look: colours that the colour-blind tell apart, names that fit, the groups of classes by size."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.metrics import FEW_SHOT, MANY_SHOT, shot_group

# M. Okabe and K. Ito, "Color Universal Design" (2008)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#808080"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY)  # yellow dots are hard to see on white
LOOK = {
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DPI = 110
MOST_TICKS = 9
NAMED = 20  # classes that a figure has room to name
GROUPS = {  # name in a legend, shade
    "many": (f"many: more than {MANY_SHOT} images", "#f6f6f6"),
    "median": (f"median: {FEW_SHOT} to {MANY_SHOT}", "#e6e6e6"),
    "low": (f"low: fewer than {FEW_SHOT}", "#d2d2d2"),
}


def defaults(changed: Mapping[str, object] | None = None) -> AbstractContextManager[None]:
    """Draw in matplotlib's own defaults, whatever the user's are, but for what is `changed`."""
    own = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    return matplotlib.rc_context(own | dict(changed or {}))


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def fit(name: str, length: int = 20) -> str:
    """Shorten a name to `length` characters, in its middle: ends tell names apart. A dollar sign starts no formula."""
    name = " ".join(name.split())
    tail = (length - 1) // 2
    return (name if len(name) <= length else f"{name[: length - 1 - tail]}…{name[-tail:]}").replace("$", r"\$")


def group_spans(counts: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Find first and last place of many, median and low, where classes stand from the largest to the smallest."""
    groups = [shot_group(count) for count in counts]
    return {name: (groups.index(name), len(groups) - 1 - groups[::-1].index(name)) for name in GROUPS if name in groups}


def shade_groups(ax: Axes, counts: Sequence[int]) -> list[Patch]:
    """Shade many, median and low along x, where classes stand from the largest to the smallest; for the legend."""
    spans = group_spans(counts)
    for name, (first, last) in spans.items():
        ax.axvspan(first - 0.5, last + 0.5, color=GROUPS[name][1], zorder=0, lw=0)
    return [Patch(facecolor=GROUPS[name][1], edgecolor=GREY, lw=0.4, label=GROUPS[name][0]) for name in spans]


def some_ticks(count: int) -> np.ndarray:
    """Choose places for ticks among `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_TICKS)).round().astype(int))
