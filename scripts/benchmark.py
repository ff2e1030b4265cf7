#!/usr/bin/env python3
"""Measure how fast each stage is, as ratios to what it could be at best or to the release's way.

    python scripts/benchmark.py                      everything, with this project's targets
    python scripts/benchmark.py --only input         one stage
    python scripts/benchmark.py --repeats=9          steadier medians

The two sides of a ratio run in turns, and the medians of their times are compared. Let nothing else run meanwhile. The
sizes can be changed by flags, for a GPU say; the targets are meant for the default sizes on a CPU. The last line on
standard output is JSON: a list of {name, ratio, target, at_least, met}. The exit status is 1 if a target is missed.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

import torch  # noqa: E402
import torchvision  # noqa: E402

from scripts.benchmarks import distributed, extraction, generative, mixture, retraining, start, step  # noqa: E402
from scripts.benchmarks import input as input_  # noqa: E402
from scripts.benchmarks.timing import Ratio  # noqa: E402
from utils.training.folder import code_version  # noqa: E402

BENCHMARKS: dict[str, ModuleType] = {
    **{"input": input_, "step": step, "generative": generative, "mixture": mixture, "extraction": extraction},
    **{"retraining": retraining, "distributed": distributed, "start": start},
}


def build_parser() -> argparse.ArgumentParser:
    """The command line: which benchmarks, how often, and the sizes of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed calls of each side (default: 5)")
    for benchmark in BENCHMARKS.values():
        benchmark.add_flags(parser)
    return parser


def measured_on() -> str:
    """What the numbers were measured on: the code's commit, processor, threads, GPU, versions."""
    code = code_version()
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    commit = f"commit {code['commit']}{', changed since' if code['dirty'] else ''}" if code["commit"] else "no commit"
    return f"{commit}; {model}, {torch.get_num_threads()} threads{gpu}; {versions}"


def main() -> int:
    """Run what is asked for; 1 if a target is missed, else 0."""
    options = build_parser().parse_args()
    print(measured_on(), flush=True)
    ratios: list[Ratio] = []
    for name in options.only or BENCHMARKS:
        for ratio in BENCHMARKS[name].measure(options):
            ratios.append(ratio)
            print(row(ratio), flush=True)
    keys = ("name", "ratio", "target", "at_least", "met")
    print(json.dumps([{key: getattr(ratio, key) for key in keys} for ratio in ratios]))
    return 0 if all(ratio.met for ratio in ratios) else 1


def row(ratio: Ratio) -> str:
    """A line of the table."""
    bound, end = ">=" if ratio.at_least else "<=", "met" if ratio.met else "MISSED"
    return f"{ratio.name:<42} {ratio.ratio:8.3f}  {bound} {ratio.target:<6g} {end:<6}  {ratio.detail}"


if __name__ == "__main__":
    sys.exit(main())
