#!/usr/bin/env python3
"""Measure how fast each stage is, as ratios to what it could be at best or to the public release's way.

    python scripts/benchmark.py                      everything, with this project's targets
    python scripts/benchmark.py --only reading step  some of it
    python scripts/benchmark.py --repeats=9          steadier medians

The two sides of a ratio run in turns in one process, and the row has the median of their ratios; behind it stand both
rates, the project's first. Let nothing else run meanwhile. With CUDA batches are larger. Minutes, estimated for two CPU
cores that train a ResNet-50 on 4.5 to 5 images a second in float32 and on 12 in bfloat16:

    reading 1/2, step 1, epoch 3, generative 1, mixture 1/2, extraction 1/2, retraining 1, processes 1

bfloat16 is left out where the device has no instructions for it. The last line on standard output is JSON: a list of
{name, ratio, target, at_least, met, rate, memory}. The exit status is 3 if a target is missed.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.benchmarks import MISSED
from scripts.benchmarks.evaluation import extraction, generative, processes
from scripts.benchmarks.reading import reading
from scripts.benchmarks.retraining import retraining
from scripts.benchmarks.setup import Sizes, default_sizes
from scripts.benchmarks.timing import Ratio, measured_on
from scripts.benchmarks.training import epoch, mixture, step
from utils.cli.common import Parser
from utils.cli.types import count
from utils.device import require_compiler
from utils.errors import run_script

MEASURES = (reading, step, epoch, generative, mixture, extraction, retraining, processes)
BENCHMARKS = {measure.__name__: measure for measure in MEASURES}
KEYS = ("name", "ratio", "target", "at_least", "met", "rate", "memory")  # of a ratio, in the JSON


def build_parser() -> argparse.ArgumentParser:
    """Build the command line: which benchmarks, and how often."""
    parser = Parser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--repeats", type=count, default=5, metavar="N", help="timed calls of each side (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="the project's side of a step is given --compile")
    return parser


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Measure what is asked for; `MISSED` if a target is missed, else 0."""
    options = build_parser().parse_args(argv)
    sizes = dataclasses.replace(sizes or default_sizes(), compile=options.compile)
    if sizes.compile:
        require_compiler(sizes.device)
    print(measured_on(), flush=True)
    if "bf16" not in sizes.precisions:
        print("this device has no bfloat16 instructions: the rows with --amp bf16 are left out", flush=True)
    ratios: list[Ratio] = []
    try:
        for name in options.only or BENCHMARKS:
            for ratio in BENCHMARKS[name](sizes, options.repeats):
                ratios.append(ratio)
                print(row(ratio), flush=True)
    finally:  # what was measured before an error or a signal is told too
        print(json.dumps([{key: getattr(ratio, key) for key in KEYS} for ratio in ratios]), flush=True)
    return 0 if all(ratio.met for ratio in ratios) else MISSED


def row(ratio: Ratio) -> str:
    """Lay out a line of the table."""
    bound, end = ">=" if ratio.at_least else "<=", "met" if ratio.met else "MISSED"
    memory = f", {ratio.memory / 2**30:.1f} GiB" if ratio.memory else ""
    return f"{ratio.name:<48} {ratio.ratio:8.3f}  {bound} {ratio.target:<6g} {end:<6}  {ratio.detail}{memory}"


if __name__ == "__main__":
    run_script(lambda: sys.exit(main()))
