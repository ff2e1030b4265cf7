#!/usr/bin/env python3
"""Say whether two run folders hold the same run, bit for bit, but for clocks and places.

    python scripts/compare_runs.py RUN_FOLDER RUN_FOLDER

Compares checkpoints entry by entry, metrics.csv without its time columns, metrics_per_class.csv, predictions.csv,
health.json and subset.txt, of train.py and of the augmentations that either folder holds; not pictures, logs and
figures. Names what differs; the exit status is 1 if anything does.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli.common import Parser
from utils.cli.rules import SAME_RUN_FLAGS
from utils.errors import UserError, run_script
from utils.files import read_rows
from utils.training.checkpoint import digest, load_checkpoint
from utils.training.layout import BEST, LAST, SUFFIXES, with_suffix

LEFT_OUT = ("sha256", "machine")  # the first is a hash of content that has clocks in it
HABITS = (*SAME_RUN_FLAGS, "init")  # the place of the first weights, too


def differences(first: Path, second: Path) -> list[str]:
    """Name the entries of checkpoints, and the files, in which two run folders differ.

    Raises:
        UserError: neither holds a run, or a checkpoint is missing or damaged.
    """
    found = [{}, {}]
    for suffix in SUFFIXES:
        if any((folder / with_suffix(LAST, suffix)).exists() for folder in (first, second)):
            for contents, folder in zip(found, (first, second), strict=True):
                contents.update(_contents(folder, suffix))
    if not found[0]:
        raise UserError(f"neither {first} nor {second} holds a checkpoint: name two run folders")
    return [name for name in {**found[0], **found[1]} if found[0].get(name) != found[1].get(name)]


def _contents(folder: Path, suffix: str) -> dict[str, str]:
    """Digest what one script left: name of an entry of a checkpoint, or of a file -> digest."""
    contents = {}
    checkpoints = [folder / with_suffix(name, suffix) for name in (LAST, BEST)]
    for checkpoint in checkpoints if checkpoints[1].exists() else checkpoints[:1]:
        stored = {name: value for name, value in load_checkpoint(checkpoint).items() if name not in LEFT_OUT}
        stored["args"] = {name: value for name, value in stored["args"].items() if name not in HABITS}
        contents |= {f"{checkpoint.name}: {name}": digest(_timeless(value)) for name, value in stored.items()}
    metrics = folder / with_suffix("metrics.csv", suffix)
    if metrics.exists():
        contents[metrics.name] = digest(_timeless(read_rows(metrics)))
    for name in ("metrics_per_class.csv", "predictions.csv", "health.json", "subset.txt"):
        path = folder / with_suffix(name, suffix)
        if path.exists():
            contents[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _timeless(value: Any) -> Any:
    """Leave out of a value the entries that a clock gave: those with 'time' in their names."""
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if "time" not in str(name)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("folders", nargs=2, type=Path, metavar="RUN_FOLDER")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print what differs; exit status 1 if anything does."""
    differing = differences(*build_parser().parse_args(argv).folders)
    print("\n".join(f"differs: {name}" for name in differing) or "the same run")
    if differing:
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main)
