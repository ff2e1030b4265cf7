#!/usr/bin/env python3
"""Measure what accuracy on clean images does not say: noise, blur, calibration, and the generative half of a run.

    python scripts/robustness.py RUN
    python scripts/robustness.py RUN --methods crt lda --fixed crt=0.01
    python scripts/robustness.py RUN --judge logs/judge/checkpoint.pth --judge logs/another/checkpoint.pth

RUN is the folder of a training, whose last epoch is measured (with --best the best one); its classifier, methods of
scripts/baselines.py (by default logit adjustment; of a generative model none), and the classifiers that augment.py and
augment_ftl.py re-trained of it in RUN and in the folders in it are measured on the test images as they are, with
Gaussian noise of standard deviation 0.1 and 0.2, blurred over 3x3 pixels, and half as bright (pixels in [0,1]). Writes
RUN/metrics_robustness.csv: a row per classifier and condition, with the metrics of metrics.csv and the calibration
error. The noise is drawn for each batch: another --batch-size has another.

Of a DGCMM with a decoder it writes RUN/generative_half.json too, of 2,000 test images: the squared error of
reconstructions beside those of a grey image and of the class's mean image, the balanced accuracy of the best
reconstruction alone and of the mixture alone and, for each --judge, the share of reconstructions and of samples of the
components that this other classifier recognises, beside that of images as they are and blurred: a plain one, trained on
more images than the run has. Judges disagree, so give several. A minute or two on one core for 10,000 small images. The
last line on standard output is JSON.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torch import nn

from datasets.subsets import spread
from models.classifier import ImageClassifier
from models.encoder import PLAIN_ARCHITECTURES
from models.loading import all_weights, create_model
from models.scoring import Scorer
from scripts.experiments.corruption import CORRUPTIONS, Corrupt
from scripts.experiments.generative import LOOKED_AT, batches, measure_generative_half
from scripts.experiments.posthoc import LEAVE_OUT, METHODS, Classify, fixed_of, method_value
from scripts.experiments.trained import TrainedRun, open_run, run_parser
from utils.cli.types import path
from utils.device import autocast, memory_watched, to_unit_range
from utils.errors import UserError, run_script
from utils.files import write_text
from utils.logs import start_logging
from utils.metrics import Row, calibration_error, compute_metrics, require_finite
from utils.streams import print_result
from utils.training.checkpoint import is_made_from, load_checkpoint, load_model_state
from utils.training.folder import RunFolder
from utils.training.layout import GENERATIVE_HALF, LAST, RETRAININGS, ROBUSTNESS, with_suffix
from utils.training.record import write_record
from utils.training.resume import warn_of_begun_epoch, warn_of_unfinished

log = logging.getLogger("dgcmm")

DEFAULT = "logit-adjustment"
CHECKPOINTS = [with_suffix(LAST, suffix) for suffix in RETRAININGS]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = run_parser(__doc__, ROBUSTNESS)
    add = parser.add_argument
    names = [name for name in METHODS if name != "trained"]
    add("--methods", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)} (default: {DEFAULT})")
    fixed = "value of a method's own parameter (default: that of baselines.py for a run without a validation set)"
    add("--fixed", nargs="+", type=method_value, default=[], metavar="NAME=VALUE", help=fixed)
    judge = "checkpoint of a plain classifier that looks at decoded images; again for another, of another architecture"
    add("--judge", type=path, action="append", default=[], metavar="PATH", help=judge)
    return parser


@memory_watched()
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, and measure a run."""
    options = build_parser().parse_args(argv)
    start_logging(quiet=False)
    folder = RunFolder(options.run)
    with folder.measuring():
        measure_run(folder, options)


def measure_run(folder: RunFolder, options: argparse.Namespace) -> None:
    """Measure the run in a folder, and write and print what was found."""
    run = open_run(folder, options, ROBUSTNESS)
    judges = load_judges(options.judge, run)
    classifiers = classifiers_of(run, folder.path)
    if run.model.generative and options.methods:
        raise UserError(f"{options.run} is generative: it has no code of an image alone, leave --methods out")
    names = [] if run.model.generative else options.methods or [DEFAULT]
    rows = measure(run, classifiers, fit(run, names, fixed_of(options.fixed, names)))
    result: dict[str, object] = {
        f"{row['classifier']}, {row['condition']}": {name: row[name] for name in ("acsa", "calibration_error")}
        for row in rows
    }
    health: dict[str, float | None] = {}
    if _decodes(run):
        test = run.splits.test
        looked_at = test.subset(spread(test.targets, LOOKED_AT))
        health = measure_generative_half(run.model, run.splits.train, looked_at, judges, run.args.batch_size)
        result["generative half"] = health
        write_text(folder.file(GENERATIVE_HALF), json.dumps(health, indent=2) + "\n")
    write_record(RunFolder(options.run, "_robustness"), options, run.checkpoint["data_sha256"], model=run.checkpoint)
    folder.write_rows(ROBUSTNESS, rows)
    print(table(rows))
    for name, value in health.items():
        print(f"{name:<40} {'-' if value is None else format(value, '.4f')}")
    print_result(result)


def _decodes(run: TrainedRun) -> bool:
    return run.model.prior is not None and bool(run.args.weight_reconst)


def load_judges(checkpoints: Sequence[str], run: TrainedRun) -> dict[str, ImageClassifier]:
    """Load the classifiers that look at decoded images, by their architecture.

    Raises:
        UserError: one is no plain classifier of such images, or two are of one architecture, or the run has no decoder.
    """
    if checkpoints and not _decodes(run):
        raise UserError("--judge: this run has no decoder, so there is nothing to judge: leave it out")
    judges: dict[str, ImageClassifier] = {}
    for checkpoint in checkpoints:
        stored = load_checkpoint(Path(checkpoint))
        args = argparse.Namespace(**stored["args"])
        if args.arch not in PLAIN_ARCHITECTURES:
            raise UserError(f"--judge {checkpoint}: name a plain classifier, {args.arch} is none")
        if stored["class_names"] != run.checkpoint["class_names"]:
            raise UserError(f"--judge {checkpoint} has other classes than the run: name one of the same")
        if args.crop_size != run.args.crop_size:
            raise UserError(
                f"--judge {checkpoint} looks at {args.crop_size} pixels a side, the run at {run.args.crop_size}: name "
                "another"
            )
        if args.arch in judges:
            raise UserError(f"--judge {checkpoint} is a second {args.arch}: name one of each architecture")
        warn_of_unfinished(stored, f"--judge {checkpoint}")
        model = create_model(args, len(stored["class_names"]))
        load_model_state(model, stored, checkpoint)
        judges[args.arch] = model.to(run.world.device).eval()
    return judges


def classifiers_of(run: TrainedRun, folder: Path) -> dict[str, nn.Module]:
    """Gather the run's classifier and those that were re-trained of it, in its folder and one below.

    One that was re-trained of another epoch, or of another model, is named and left out.
    """
    classifiers: dict[str, nn.Module] = {"trained": run.model.classifier}
    places = [f"{below}{name}" for name in CHECKPOINTS for below in ("", "*/")]
    for checkpoint in sorted(found for place in places for found in folder.glob(place)):
        stored = load_checkpoint(checkpoint)
        if not is_made_from(stored, run.checkpoint):
            log.warning("%s was made from another model than %s: it is left out", checkpoint, run.args.resume)
            continue
        warn_of_unfinished(stored, str(checkpoint))
        warn_of_begun_epoch(stored, str(checkpoint))
        state = {name.removeprefix("classifier."): value for name, value in stored["state_dict"].items()}
        classifier = type(run.model.classifier)(run.model.z_dim, run.model.num_classes)
        classifier.load_state_dict({name: state[name] for name in classifier.state_dict()})
        classifiers[str(checkpoint.relative_to(folder).with_suffix("")).replace("checkpoint_", "")] = classifier
    return {name: classifier.to(run.world.device).eval() for name, classifier in classifiers.items()}


def fit(run: TrainedRun, names: Sequence[str], fixed: dict[str, float | str]) -> dict[str, Classify]:
    """Fit methods on codes to those of the training images; values that are not fixed are the methods' defaults.

    Raises:
        UserError: a method needs a linear classifier, and this one is by the cosine.
    """
    if not names:
        return {}
    trained, _ = run.codes()
    for name in names:
        if METHODS[name].linear and not trained.linear:
            raise UserError(f"--methods {name} needs a linear classifier, that of {run.args.resume} is by the cosine")
    return {name: METHODS[name].fit(trained, fixed.get(name, METHODS[name].default)) for name in names}


@torch.inference_mode()
def classify(
    run: TrainedRun, classifiers: dict[str, nn.Module], methods: dict[str, Classify], corrupt: Corrupt
) -> dict[str, np.ndarray]:
    """Classify the test images, changed by `corrupt`, by each classifier and method: probabilities (N,K)."""
    model, device = run.model.eval(), run.world.device
    scorer, own = Scorer(model, all_weights(run.args)), model.classifier
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*classifiers, *methods)}
    for number, (images, _, _) in enumerate(batches(run.splits.test, run.args.batch_size)):
        with autocast(device, run.args.amp):
            evidence = scorer.evidence(corrupt(to_unit_range(images, device), number))
        for name, classifier in classifiers.items():
            model.classifier = classifier
            parts[name].append(scorer.probabilities(*evidence).cpu().numpy())
        model.classifier = own
        if methods:
            codes = model.posterior(evidence[0], None)[0].float().cpu()
            for name, method in methods.items():
                parts[name].append(method(codes))
    return {name: np.concatenate(found) for name, found in parts.items()}


def measure(run: TrainedRun, classifiers: dict[str, nn.Module], methods: dict[str, Classify]) -> list[Row]:
    """Measure every classifier and method under every condition."""
    counts, targets = run.checkpoint["class_counts"], run.splits.test.targets
    rows: list[Row] = []
    for condition, corrupt in CORRUPTIONS.items():
        for name, probabilities in classify(run, classifiers, methods, corrupt).items():
            require_finite([probabilities], f"{name}, {condition}: {LEAVE_OUT}")
            numbers = compute_metrics(targets, probabilities, counts)
            error = calibration_error(targets, probabilities)
            rows.append({"classifier": name, "condition": condition, **numbers, "calibration_error": error})
    return rows


def table(rows: Sequence[Row]) -> str:
    """Lay out balanced accuracy and calibration error: a line a classifier, two columns a condition."""
    lines = [f"{'acsa, calibration error':<24}" + "".join(f" {name:>16}" for name in CORRUPTIONS)]
    for name in dict.fromkeys(row["classifier"] for row in rows):
        own = [row for row in rows if row["classifier"] == name]
        lines.append(f"{name:<24}" + "".join(f"    {row['acsa']:.4f} {row['calibration_error']:.3f}" for row in own))
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
