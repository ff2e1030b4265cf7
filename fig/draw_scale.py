#!/usr/bin/env python3
"""Draw fig/scale.png: measured time and memory against the number of components and of codes.

    python fig/draw_scale.py results/benchmark/scale.json

The file is what `python -m scripts.benchmarks.scale` writes. Points are measured; a dashed line goes on from the last
one in proportion to the number of codes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli.common import Parser
from utils.errors import UserError, run_script

INK, GREY = "#2b333d", "#66707d"
COLOURS = ("#4a76a8", "#cc6a57")
IMAGENET = 1_280_000
UNITS = {"seconds": ("seconds", 1.0), "bytes": ("MB", 1e6)}


def curve(ax: Axes, points: list[dict[str, Any]], x: str, y: str, colour: str, label: str | None = None) -> None:
    """Measured points, joined."""
    places = [point[x] for point in points]
    ax.plot(places, [point[y] / UNITS[y][1] for point in points], "o-", color=colour, label=label, ms=4, lw=1.4)


def extrapolation(ax: Axes, last: dict[str, Any], y: str, colour: str) -> None:
    """Draw a line on from the last measured point, in proportion to the number of codes."""
    if last["codes"] < IMAGENET:
        heights = [last[y], last[y] * IMAGENET / last["codes"]]
        ends, unit = [last["codes"], IMAGENET], UNITS[y][1]
        ax.plot(
            ends,
            [height / unit for height in heights],
            "--",
            color=colour,
            lw=1.2,
            label="extrapolated, in proportion to N",
        )


def draw(found: dict[str, Any]) -> Figure:
    """Two columns, components and codes; two rows, time and memory."""
    matplotlib.rcdefaults()
    figure = Figure(figsize=(10, 6.4), dpi=150, facecolor="white", layout="constrained")
    for row, y in zip(figure.subplots(2, 2), ("seconds", "bytes"), strict=True):
        curve(row[0], found["mixture"], "components", y, COLOURS[0])
        for dim, colour in zip(sorted({point["dim"] for point in found["codes"]}), COLOURS, strict=False):
            points = [point for point in found["codes"] if point["dim"] == dim]
            curve(row[1], points, "codes", y, colour, f"codes of length {dim}")
            extrapolation(row[1], points[-1], y, colour)
        for ax in row:
            ax.set(xscale="log", yscale="log", ylabel=UNITS[y][0])
            ax.grid(alpha=0.3)
        row[0].set_xlabel("components K")
        row[1].set_xlabel("training codes N")
        row[1].legend(fontsize=8)
        what = "Time" if y == "seconds" else "Memory"
        row[0].set_title(
            f"{what} of the mixture term, forward and backward, 256 codes of length 2048", fontsize=9, color=INK
        )
        row[1].set_title(f"{what} of an epoch of re-training (Case 2)", fontsize=9, color=INK)
    figure.supxlabel(found["measured_on"], fontsize=7, color=GREY)
    return figure


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="what was measured")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the file that the command line names beside this one."""
    path = build_parser().parse_args(argv).file
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): name what scripts.benchmarks.scale has written") from error
    target = Path(__file__).with_name("scale.png")
    draw(found).savefig(target, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    run_script(main)
