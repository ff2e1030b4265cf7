#!/usr/bin/env python3
"""Draw the figures of runs anew, from the files in their folders.

    python scripts/figures.py RUN [RUN ...]

RUN is a run folder, or a folder with runs below it. Every script draws its figures at its end, but for --no-figures;
this draws those of training, both re-trainings and evaluation into <RUN>/figures, and prints their paths.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli.common import Parser
from utils.errors import UserError, run_script
from utils.figures.make import make_figures
from utils.logs import start_logging
from utils.training.folder import RunFolder
from utils.training.layout import SUFFIXES, find_runs


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder with runs below it"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the command line names."""
    places = build_parser().parse_args(argv).places
    start_logging(quiet=False)
    runs = [run for place in places for run in find_runs(place)]
    folders = [RunFolder(run, suffix) for run in runs for suffix in SUFFIXES]
    since = time.time()  # a figure that shows several scripts' results is drawn once
    drawn = dict.fromkeys(path for folder in folders for path in make_figures(folder, since).values())
    if not drawn:
        raise UserError(
            f"no figure of {', '.join(map(str, runs))}: no epoch has ended there, or a warning above says what is wrong"
        )
    print("\n".join(map(str, drawn)))


if __name__ == "__main__":
    run_script(main)
