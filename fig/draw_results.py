#!/usr/bin/env python3
"""Draw examples of a run's figures from runs under results/: fig/recall.png, fig/learning_curves.png, fig/samples.png.

    python fig/draw_results.py results/fashion_mnist_lt/plain/subset0 \\
      results/fashion_mnist_lt/tenth-resnet18/dgcmm-alive/subset0
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli.common import Parser
from utils.errors import UserError, run_script
from utils.figures.classes import recall_by_size
from utils.figures.curves import learning_curves
from utils.figures.reading import read_classes, read_history
from utils.figures.sheets import samples
from utils.figures.style import LOOK, defaults

TITLE, TITLE_OF_FEW = "Fashion-MNIST, long-tailed", "A tenth of Fashion-MNIST, long-tailed"


def save(figure: Figure, name: str) -> None:
    """Write a figure beside this file, in few bytes; the same on every run."""
    path = Path(__file__).with_name(name)
    figure.savefig(path, dpi=80, metadata={"Software": None}, pil_kwargs={"optimize": True})


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with both re-trainings")
    parser.add_argument("alive", type=Path, metavar="ALIVE", help="folder of a run that has pictures.npz")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the run folders that the command line names."""
    options = build_parser().parse_args(argv)
    try:
        tables = {
            suffix: read_classes(options.run / f"metrics_per_class{suffix}.csv") for suffix in ("", "_aug_ftl", "_aug")
        }
        history = read_history(options.run / "metrics.csv")
        with np.load(options.alive / "pictures.npz") as file:
            pictures = dict(file)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): name other runs") from error
    with defaults(LOOK):
        save(recall_by_size(tables, TITLE), "recall.png")
        save(learning_curves(history, TITLE), "learning_curves.png")
        save(samples(pictures, TITLE_OF_FEW), "samples.png")


if __name__ == "__main__":
    run_script(main)
