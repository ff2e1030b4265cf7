"""Codes of training images in the plane, with the means of the prior's components."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from utils.errors import UserError
from utils.figures.reading import TrainingCodes
from utils.figures.style import COLOURS, fit, new_figure

CLASSES = 16  # two markers in eight colours
IMAGES = 1000
PCA_DIMS, ITERATIONS = 50, 500  # before t-SNE, and of it
MARKERS = ("o", "^")
MARGIN = 0.08  # of the codes' range, around it
LEGEND_WIDTH = 145  # characters


def codes_in_the_plane(found: TrainingCodes, title: str) -> Figure:
    """Draw codes by PCA and by t-SNE, a colour and a marker for each class.

    Raises:
        UserError: there is nothing to see, as all codes are the same; t-SNE would end the process.
    """
    if (found.codes == found.codes[0]).all():
        raise UserError("all codes are the same")
    figure = new_figure(10.5, 5.4)
    dims = min(PCA_DIMS, *found.codes.shape)
    pca = PCA(dims, random_state=0)
    codes = _two_at_least(pca.fit_transform(found.codes))
    means = _two_at_least(pca.transform(found.means)) if len(found.means) else codes[:0]
    shares = 100 * pca.explained_variance_ratio_
    left, right = figure.subplots(1, 2)
    outside = _scatter(left, found, codes[:, :2], means[:, :2])
    left.set_title(f"PCA, {shares[0]:.0f} % and {shares[1] if dims > 1 else 0:.0f} % of the variance{outside}")
    together = np.concatenate([codes, means])
    neighbours = min(30.0, (len(together) - 1) / 3)
    tsne = TSNE(perplexity=neighbours, init="pca", max_iter=ITERATIONS, random_state=0)
    placed = tsne.fit_transform(together)
    _scatter(right, found, placed[: len(codes)], placed[len(codes) :])
    right.set_title(f"t-SNE of the first {dims} principal components, perplexity {neighbours:.0f}")
    shown = f"{len(found.classes)} of {len(found.names)} classes, " if len(found.classes) < len(found.names) else ""
    crosses = "; crosses: components' means" if len(means) else ""
    figure.suptitle(f"{title}: {shown}{len(codes)} training images{crosses}")
    handles, labels = left.get_legend_handles_labels()
    columns = LEGEND_WIDTH // (max(map(len, labels)) + 9)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _two_at_least(codes: np.ndarray) -> np.ndarray:
    """Give codes of one dimension a second one, 0."""
    return np.pad(codes, ((0, 0), (0, max(2 - codes.shape[1], 0))))


def _scatter(ax: Axes, found: TrainingCodes, places: np.ndarray, means: np.ndarray) -> str:
    """Draw codes (N,2) and means (C,2); the codes set the axes. Says for a title how many means lie outside."""
    for number, label in enumerate(found.classes):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        own = places[found.targets == label]
        name = f"{fit(found.names[label], 16)} ({found.counts[label]:,})"
        name = f" {name}" if name.startswith("_") else name  # which matplotlib would leave out
        ax.scatter(*own.T, s=12, color=colour, marker=marker, alpha=0.6, lw=0, label=name)
        if len(means):
            ax.scatter(*means[number], s=110, color="white", marker="X", lw=0, zorder=3)
            ax.scatter(
                *means[number], s=70, color=colour if found.own else "white", marker="X", ec="black", lw=0.6, zorder=4
            )
    low, high = places.min(axis=0), places.max(axis=0)
    edge = MARGIN * np.maximum(high - low, 1e-6)
    ax.set(xticks=[], yticks=[], xlim=(low[0] - edge[0], high[0] + edge[0]), ylim=(low[1] - edge[1], high[1] + edge[1]))
    for spine in ax.spines.values():
        spine.set_visible(True)
    outside = int(((means < low - edge) | (means > high + edge)).any(axis=1).sum())
    return f"; {outside} means are outside" if outside else ""
