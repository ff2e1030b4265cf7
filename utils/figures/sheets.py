"""Sheets of images: inputs above their reconstructions, and samples of the components."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.figures.style import fit, new_figure

GAP = 2  # pixels between images


def reconstructions(pictures: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw images above what the decoder makes of them under their own labels.

    Args:
        pictures: 'inputs' and 'reconstructions' (N,S,S,3) uint8, 'labels' (N,) class names.
        title: of the figure.
    """
    rows = np.stack([pictures["inputs"], pictures["reconstructions"]])
    names = [fit(str(name), 14) for name in pictures["labels"]]
    turned = max(map(len, names)) > 7
    figure = new_figure(0.95 * rows.shape[1] + 0.8, 3.1 if turned else 2.6)
    ax = figure.subplots()
    columns, lines = show(ax, rows)
    ax.set_xticks(columns, names, **({"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if turned else {}))
    ax.set_yticks(lines, ["image", "rebuilt"])
    ax.set_title(title)
    return _settled(figure)


def samples(pictures: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw what the decoder makes of each component's mean and of draws from it, under the component's label.

    Args:
        pictures: 'samples' (C,M,S,S,3) uint8, the mean first; 'components' (C,) their names; 'num_classes' ().
        title: of the figure.
    """
    sheet, total = pictures["samples"], int(pictures["num_classes"])
    figure = new_figure(0.62 * sheet.shape[1] + 2, 0.62 * len(sheet) + 0.9)
    ax = figure.subplots()
    columns, lines = show(ax, sheet)
    ax.set_xticks(columns, ["mean", *[""] * (len(columns) - 1)])
    ax.xaxis.tick_top()
    ax.set_yticks(lines, [fit(str(name)) for name in pictures["components"]])
    shown = f"\n{len(sheet)} of {total}, from the largest class to the smallest" if len(sheet) < total else ""
    ax.set_title(title + shown)
    return _settled(figure)


def _settled(figure: Figure) -> Figure:
    """Lay the figure out once before it is drawn: only then is known what the shape of the images leaves for names."""
    figure.draw_without_rendering()
    return figure


def show(ax: Axes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Show images (R,C,S,S,3) in rows and columns; returns the centres of the columns (C,) and of the rows (R,)."""
    rows, columns, side = images.shape[:3]
    padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (side + GAP), columns * (side + GAP), 3)
    ax.imshow(sheet[:-GAP, :-GAP], interpolation="nearest")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return np.arange(columns) * (side + GAP) + side / 2, np.arange(rows) * (side + GAP) + side / 2
