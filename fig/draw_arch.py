#!/usr/bin/env python3
"""Draw fig/arch.png, the architecture of DGCMM that the README shows.

    python fig/draw_arch.py

All positions are in pixels of the finished picture, from its lower left corner. The picture is the same on every run.
"""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon, Rectangle

WIDTH, HEIGHT, DPI = 1800, 1175, 180
INK, GREY, EDGE = "#2b333d", "#66707d", "#a9b3bf"
CLASS_COLOURS = ("#4a76a8", "#5f9f86", "#c29a45", "#9a6f9f", "#cc6a57")  # from the largest class to the smallest
NETWORK, CODE, LOSS, SCENE = "#e4ecf5", "#e6f1ec", "#fbeee6", "#f8f9fb"
Point = tuple[float, float]


def text(ax: Axes, x: float, y: float, words: str, size: float = 10, **style: object) -> None:
    """Write words centred at (x, y); style goes to matplotlib."""
    ax.text(x, y, words, **{"ha": "center", "va": "center", "size": size, "color": INK, "linespacing": 1.35, **style})


def box(ax: Axes, left: float, bottom: float, width: float, height: float, fill: str = NETWORK) -> None:
    """Draw a rounded box."""
    style = "round,pad=0,rounding_size=12"
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, fc=fill, ec=EDGE, lw=1))


def arrow(ax: Axes, *points: Point, curve: float = 0) -> None:
    """Draw a line through points with a head that ends at the last one."""
    ax.plot(*zip(*points[:-1], strict=True), color=GREY, lw=1.5)
    how = {"arrowstyle": "-|>,head_length=0.45,head_width=0.2", "connectionstyle": f"arc3,rad={curve}", "color": GREY}
    ax.annotate("", points[-1], points[-2], arrowprops={**how, "shrinkA": 0, "shrinkB": 0, "lw": 1.5})


def codes(ax: Axes, points: np.ndarray, colour: str, synthetic: bool = False) -> None:
    """Draw codes (N, 2) as dots: filled for training images, hollow for synthetic ones."""
    face, edge, width = ("white", colour, 0.9) if synthetic else (colour, "white", 0.4)
    ax.scatter(*points.T, s=13 if synthetic else 17, fc=face, ec=edge, lw=width)


def gaussian(
    ax: Axes,
    seed: int,
    count: int,
    centre: Point,
    shape: tuple[float, float, float],
    colour: str,
    synthetic: bool = False,
) -> None:
    """Draw a Gaussian as the ellipse of two standard deviations, dashed if it is for synthetic codes, and draws of it.

    Args:
        seed, count: the draws; with the same seed, fewer of them are the first ones of more.
        shape: the two radii in pixels and the tilt in degrees.
    """
    wide, high, tilt = shape
    for style in ({"fc": colour, "alpha": 0.13}, {"fc": "none", "ec": colour, "ls": (0, (4, 2)) if synthetic else "-"}):
        ax.add_patch(Ellipse(centre, 2 * wide, 2 * high, angle=tilt, lw=1.2, **style))
    unit = np.random.default_rng(seed).standard_normal((20 * count, 2)) / 2
    across, along = (unit[np.hypot(*unit.T) < 0.87][:count] * (wide, high)).T  # those inside the ellipse
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    codes(ax, np.stack([across * cos - along * sin, across * sin + along * cos], 1) + centre, colour, synthetic)


def mean(ax: Axes, x: float, y: float, symbol: str) -> None:
    """Mark a class mean with a cross and, led out of the codes to the lower right, its symbol."""
    ax.plot([x, x + 58], [y, y - 58], color=INK, lw=0.7)
    ax.plot(x, y, marker="+", ms=9, mew=2, color=INK)
    text(ax, x + 78, y - 72, symbol, 11)


def picture(ax: Axes, left: float, bottom: float, side: float, stroke: float, strength: float) -> None:
    """Draw a hand-written zero on 28 pixels; stroke (pixels) and strength tell the rebuilt one from the original."""
    x, y = np.meshgrid(np.arange(28) - 13.5, np.arange(28) - 13.5)
    ring = np.hypot((x + 0.25 * y) / 0.68, y) - 8.5
    image = 0.12 + strength * np.exp(-((ring / stroke) ** 2))
    ax.imshow(image, cmap="bone", vmin=0, vmax=1, extent=(left, left + side, bottom, bottom + side))
    ax.add_patch(Rectangle((left, bottom), side, side, fc="none", ec=EDGE, lw=1))


def bars(ax: Axes, left: float, bottom: float, heights: tuple[float, ...]) -> None:
    """Draw a bar per class."""
    for i, (height, colour) in enumerate(zip(heights, CLASS_COLOURS, strict=True)):
        ax.add_patch(Rectangle((left + 25 * i, bottom), 18, height, fc=colour))
    ax.plot([left - 6, left + 124], [bottom, bottom], color=GREY, lw=1)


def draw_encoder(ax: Axes, y: float) -> None:
    """Draw the way from the image to the code, and the loss in words below."""
    picture(ax, 40, y - 70, 140, 2.2, 0.85)
    text(ax, 110, y - 98, "image $x$", 10.5)
    ax.add_patch(Polygon([(225, y + 105), (390, y + 65), (390, y - 65), (225, y - 105)], fc=NETWORK, ec=EDGE))
    text(ax, 307, y, "ResNet\nencoder", 11, weight="bold")
    ax.add_patch(Rectangle((430, y - 65), 22, 130, fc=CLASS_COLOURS[0], alpha=0.75))
    text(ax, 441, y + 88, "$h$", 12)
    text(ax, 441, y - 92, "length $H$", 9.5, color=GREY)
    for level, symbol in ((y + 65, r"$\mu$"), (y - 65, r"$\log\,\sigma^2$")):
        box(ax, 520, level - 42, 145, 84)
        text(ax, 592, level + 16, symbol, 12)
        text(ax, 592, level - 20, "linear", 9.5, color=GREY)
        arrow(ax, (452, y), (483, y), (483, level), (520, level))
        arrow(ax, (665, level), (690, level), (690, y), (720, y))
    box(ax, 720, y - 42, 185, 84, CODE)
    text(ax, 812, y, r"$z = \mu + \sigma\,\varepsilon$", 12)
    text(ax, 812, y - 124, r"$\varepsilon \sim N(0, I)$", 10.5)
    for start, end in (((180, y), (225, y)), ((390, y), (430, y)), ((812, y - 102), (812, y - 42))):
        arrow(ax, start, end)
    box(ax, 40, 475, 865, 116, LOSS)
    text(ax, 68, 560, "Training loss", 11, weight="bold", ha="left")
    words = r"$w_{cls}\cdot$ cross-entropy  $+$  $w_{rec}\cdot$ squared error  $+$  $w_{gmm}\cdot L_{gmm}$"
    text(ax, 68, 510, words, 10.5, ha="left")


def draw_branches(ax: Axes, y: float, top: float, low: float) -> None:
    """Draw the ways from the code to class probabilities, rebuilt image and prior, with the losses on the right."""
    for level in (top, low, y):
        arrow(ax, (905, y), (938, y), (938, level), (975, level))
    box(ax, 975, top - 43, 375, 86)
    text(ax, 1162, top, "linear classifier", 11, weight="bold")
    bars(ax, 1400, top - 20, (12, 20, 62, 9, 16))
    text(ax, 1459, top - 58, "class\nprobabilities", 9, color=GREY)
    box(ax, 975, y - 120, 375, 240)
    text(ax, 1162, y + 93, "decoder VAE3", 11, weight="bold")
    sizes = ((1042, 22, "128×6×6"), (1135, 34, "11"), (1210, 46, "21"), (1302, 66, "41 px"))
    for centre, side, name in sizes:
        ax.add_patch(Rectangle((centre - side / 2, y + 27 - side / 2), side, side, fc="white", ec=CLASS_COLOURS[0]))
        text(ax, centre, y - 40, name, 8.5, color=GREY, va="baseline")
    for (left, before, _), (right, after, _) in pairwise(sizes):
        arrow(ax, (left + before / 2 + 4, y + 27), (right - after / 2 - 4, y + 27))
    text(ax, 1162, y - 84, "linear, 3 class-conditional\ntransposed convolutions, resize", 8.5, color=GREY)
    text(ax, 1162, y + 168, "label $y$", 10.5)
    arrow(ax, (1162, y + 150), (1162, y + 120))
    picture(ax, 1394, y - 65, 130, 3.2, 0.6)
    text(ax, 1459, y - 90, "rebuilt image", 9, color=GREY)
    losses = ("cross-entropy", "with label $y$"), ("squared error", "to image $x$"), ("$L_{gmm}$", "KL to mixture")
    for level, (name, note) in zip((top, y, low), losses, strict=True):
        box(ax, 1567, level - 43, 203, 86, LOSS)
        text(ax, 1668, level + 17, name, 12 if "$" in name else 9.5, weight="bold")
        text(ax, 1668, level - 20, note, 9, color=GREY)
        arrow(ax, (1535, level), (1567, level))
    for level in (top, y):
        arrow(ax, (1350, level), (1388, level))


def draw_prior(ax: Axes, y: float) -> None:
    """Draw the Gaussian mixture, a component per class, with the codes of the classes in it."""
    box(ax, 975, y - 115, 560, 230, SCENE)
    text(ax, 999, y + 88, "Gaussian-mixture prior", 11, weight="bold", ha="left")
    places = ((1090, y - 24), (1250, y - 66), (1247, y + 24), (1357, y - 34), (1375, y + 42))
    shapes = ((88, 52, 25), (70, 34, -8), (52, 30, 20), (40, 24, 50), (30, 18, -15))
    for i, (place, shape, count) in enumerate(zip(places, shapes, (60, 30, 16, 8, 4), strict=True)):
        gaussian(ax, 30 + i, count, place, shape, CLASS_COLOURS[i])
        ax.scatter(1473, y + 6 - 19 * i, s=46 - 9 * i, fc=CLASS_COLOURS[i])
    text(ax, 1473, y + 48, "many\nimages", 9, color=GREY)
    text(ax, 1473, y - 95, "few", 9, color=GREY)


def draw_cases(ax: Axes) -> None:
    """Draw the two ways to synthetic codes: Case 2 on the left, Case 1 on the right."""
    posteriors = "equally many fresh draws of every class,\n" r"from its images:  $\mu_i + \sigma_i\,\varepsilon$"
    transfer = "head-class spread, tail-class mean:\n" r"$m_c + Q\,Q^T (z_j - m_{y_j})$"
    cases = (40, "Case 2", "augment.py", posteriors), (1200, "Case 1", "augment_ftl.py", transfer)
    for left, name, script, caption in cases:
        box(ax, left, 120, 570, 255, SCENE)
        text(ax, left + 24, 345, name, 11, weight="bold", ha="left")
        text(ax, left + 546, 345, script, 9.5, ha="right", family="monospace", color=GREY)
        text(ax, left + 285, 67, caption, 10)
    head, tail = CLASS_COLOURS[0], CLASS_COLOURS[-1]
    gaussian(ax, 5, 12, (185, 218), (120, 66, 24), head, synthetic=True)
    images = [(-60, -30), (-75, 8), (-28, -48), (-30, 12), (-5, -15), (20, 40), (38, 0), (62, 55), (78, 22)]
    codes(ax, np.add((185, 218), images), head)
    for seed, place, tilt in ((6, (395, 272), 15), (7, (520, 218), -25), (8, (395, 170), -8)):
        gaussian(ax, seed, 12, place, (66, 36, tilt), tail, synthetic=True)
        codes(ax, np.array([place]), tail)
    source, target, shape = (1345, 222), (1610, 222), (118, 54, 28)
    gaussian(ax, 9, 50, source, shape, head)
    gaussian(ax, 9, 25, target, shape, tail, synthetic=True)  # the same draws, carried over
    codes(ax, np.add(target, [(-30, 12), (28, 22), (4, -32)]), tail)
    mean(ax, *source, "$m_{y_j}$")
    mean(ax, *target, "$m_c$")
    arrow(ax, (1400, 295), (1590, 272), curve=-0.25)


def draw_retraining(ax: Axes) -> None:
    """Draw the second row's title and legend, and the classifier that both cases feed."""
    ax.plot([40, 1770], [442, 442], color=EDGE, lw=0.8)
    text(ax, 40, 410, "After training", 12, weight="bold", ha="left")
    for x, words, synthetic in ((1178, "code of a training image", False), (1564, "synthetic code", True)):
        codes(ax, np.array([(x, 410)]), GREY, synthetic)
        text(ax, x + 16, 402, words, 9.5, ha="left", va="baseline", color=GREY)
    box(ax, 720, 120, 370, 255)
    text(ax, 905, 342, "linear classifier", 11, weight="bold")
    text(ax, 905, 278, "re-trained on equally\nmany codes of every class", 10)
    bars(ax, 846, 145, (80,) * 5)
    arrow(ax, (610, 247), (720, 247))
    arrow(ax, (1200, 247), (1090, 247))


def main() -> None:
    """Draw the picture beside this file."""
    matplotlib.rcdefaults()
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    text(ax, 40, 1120, "Training", 12, weight="bold", ha="left")
    draw_encoder(ax, y=855)
    draw_branches(ax, y=855, top=1098, low=590)
    draw_prior(ax, y=590)
    draw_cases(ax)
    draw_retraining(ax)
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    figure.savefig(Path(__file__).with_name("arch.png"), metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
