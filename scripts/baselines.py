#!/usr/bin/env python3
"""Measure the usual remedies for imbalance on the codes of a trained run, without training its encoder again.

    python scripts/baselines.py RUN
    python scripts/baselines.py RUN --methods logit-adjustment crt --fixed crt=0.1

RUN is the folder of a training, of a DGCMM or a plain classifier; its last epoch is measured or, with --best, the best
one. From its codes (kept beside the checkpoint, made if there are none) come logit adjustment after training,
tau-normalisation, NCM, LDA, cRT (a new layer), LWS and SMOTE, and both cases of the paper from both starts, to choose
their learning rate (augment.py and augment_ftl.py have all the flags). Each has one parameter of its own: where the run
has a validation set the best of a small grid by balanced accuracy there is taken, else --fixed or a default. The test
set is measured with that value alone.

Writes RUN/metrics_baselines.csv: a row per method, value and split, with the metrics of metrics.csv and the calibration
error; RUN/metrics_per_class_baselines.csv, of the test set; and RUN/args_baselines.json, the command. Half a minute on
one core for 9,000 images. The last line on standard output is JSON: the test metrics of each method.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from codes import Codes
from scripts.experiments.choices import first_best
from scripts.experiments.posthoc import LEAVE_OUT, METHODS, Classify, Method, TrainedCodes, fixed_of, method_value
from scripts.experiments.trained import open_run, run_parser
from utils.device import memory_watched
from utils.errors import UserError, run_script
from utils.logs import start_logging
from utils.metrics import Row, calibration_error, compute_metrics, per_class_metrics, require_finite
from utils.streams import print_result
from utils.training.checkpoint import Checkpoint
from utils.training.folder import RunFolder
from utils.training.layout import BASELINES, BASELINES_BY_CLASS, SHOWN
from utils.training.record import write_record

log = logging.getLogger("dgcmm")

COLUMNS = (*SHOWN, "calibration_error")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = run_parser(__doc__, BASELINES)
    add = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help=f"of {', '.join(METHODS)}")
    add(
        "--fixed",
        nargs="+",
        type=method_value,
        default=[],
        metavar="NAME=VALUE",
        help="value of a method's own parameter, which is then not chosen",
    )
    return parser


@memory_watched()
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, and measure the methods on a run."""
    options = build_parser().parse_args(argv)
    fixed = fixed_of(options.fixed, options.methods)
    start_logging(quiet=False)
    folder = RunFolder(options.run)
    with folder.measuring():
        measure_run(folder, options, fixed)


def measure_run(folder: RunFolder, options: argparse.Namespace, fixed: dict[str, float | str]) -> None:
    """Measure the methods on the run in a folder, and write and print what was found."""
    run = open_run(folder, options, BASELINES)
    if run.model.generative:
        raise UserError(
            f"{options.run} is generative: the code of a test image depends on the label in question, so these methods "
            "have nothing to start from; augment.py re-trains its classifier"
        )
    trained, codes = run.codes()
    rows, per_class = measure(trained, codes, run.checkpoint, dict.fromkeys(options.methods), fixed)
    if not rows:
        raise UserError(f"--methods: all these need a linear classifier, that of {options.run} is by the cosine")
    write_record(RunFolder(options.run, "_baselines"), options, run.checkpoint["data_sha256"], model=run.checkpoint)
    folder.write_rows(BASELINES_BY_CLASS, per_class)
    folder.write_rows(BASELINES, rows)
    print(table(rows))
    tested = [row for row in rows if row["split"] == "test"]
    print_result({row["method"]: {name: row[name] for name in ("value", *COLUMNS)} for row in tested})


def measure(
    trained: TrainedCodes,
    measured: dict[str, Codes],
    checkpoint: Checkpoint,
    names: Iterable[str],
    fixed: dict[str, float | str],
) -> tuple[list[Row], list[Row]]:
    """Choose the parameter of each method on the validation codes, if there are any, and measure it on the test codes.

    Args:
        trained: what methods start from.
        measured: codes of 'test' and perhaps 'val'.
        checkpoint: of the run; its classes and their training images.
        names: of methods.
        fixed: values that are not chosen, by the name of the method.

    Returns:
        A row for each method, value and split, on 'test' of the chosen value alone; of that also the rows per class.
    """
    rows: list[Row] = []
    per_class: list[Row] = []
    counts, classes = checkpoint["class_counts"], checkpoint["class_names"]
    for name in names:
        method = METHODS[name]
        if method.linear and not trained.linear:
            log.warning("%s is left out: it needs a linear classifier, this one is by the cosine", name)
            continue
        grid = [fixed[name]] if name in fixed else method.grid if "val" in measured else [method.default]
        fitted = [Fitted.of(name, method, value, trained) for value in grid]
        chosen = fitted[0]
        if "val" in measured:
            validated = [one.row("val", measured["val"], counts) for one in fitted]
            rows += validated
            chosen = fitted[first_best({number: row["acsa"] for number, row in enumerate(validated)})]
        test = measured["test"]
        rows.append(chosen.row("test", test, counts))
        found = per_class_metrics(test["targets"].numpy(), chosen.probabilities(test), counts, classes)
        per_class += [{"method": name} | row for row in found]
    return rows, per_class


class Fitted(NamedTuple):
    """A method with a value of its parameter, fitted to the training codes in so many seconds."""

    name: str
    method: Method
    value: float | str
    classify: Classify
    seconds: float

    @classmethod
    def of(cls, name: str, method: Method, value: float | str, trained: TrainedCodes) -> "Fitted":
        """Fit a method."""
        started = time.perf_counter()
        classify = method.fit(trained, value)
        return cls(name, method, value, classify, time.perf_counter() - started)

    def probabilities(self, codes: Codes) -> np.ndarray:
        """Classify the codes of a split: (N,K)."""
        return self.classify(codes["mu"].float())

    def row(self, split: str, codes: Codes, class_counts: Sequence[int]) -> Row:
        """Measure the method on a split."""
        targets, probabilities = codes["targets"].numpy(), self.probabilities(codes)
        require_finite([probabilities], f"{self.name} at {self.value}: {LEAVE_OUT}")
        return {
            "method": self.name,
            "parameter": self.method.parameter or None,
            "value": self.value if self.method.parameter else None,
            "split": split,
            **compute_metrics(targets, probabilities, class_counts),
            "calibration_error": calibration_error(targets, probabilities),
            "time": self.seconds,
        }


def table(rows: Sequence[Row]) -> str:
    """Lay out the headline metrics on the test images, and before them ACSA on the validation images, if any."""
    held = {(row["method"], row["value"]): row["acsa"] for row in rows if row["split"] == "val"}
    names = ("val acsa", *COLUMNS) if held else COLUMNS
    lines = [f"{'method':<18} {'own parameter':<18}" + "".join(f" {name[:11]:>11}" for name in names)]
    for row in (row for row in rows if row["split"] == "test"):
        own = f"{row['parameter']} {row['value']}" if row["parameter"] else ""
        numbers = row | {"val acsa": held.get((row["method"], row["value"]))}
        cells = "".join(f" {'-' if numbers[name] is None else format(numbers[name], '.4f'):>11}" for name in names)
        lines.append(f"{row['method']:<18} {own:<18}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
