"""How soon each script answers `-h`: seconds of a process of its own, over the 0.4 s that it may take."""

import argparse
import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.timing import Ratio, interleave

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ("train.py", "augment.py", "augment_ftl.py")
LIMIT_S = 0.4


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark: none."""


def measure(options: argparse.Namespace) -> list[Ratio]:
    """Seconds of `-h` of each script over the limit.

    Args:
        options: `repeats`.
    """
    seconds = interleave({script: lambda script=script: ask(script) for script in SCRIPTS}, options.repeats)
    return [
        Ratio(f"start: {script} -h / {LIMIT_S} s", f"{taken:.3f} s", taken / LIMIT_S, 1.0, False)
        for script, taken in seconds.items()
    ]


def ask(script: str) -> str:
    """What `-h` of a script prints."""
    command = [sys.executable, str(ROOT / script), "-h"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
