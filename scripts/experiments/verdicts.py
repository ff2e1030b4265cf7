"""What the tables say, in sentences: who is first, whether it is ahead, and what a generative model gives besides."""

import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

from scripts.experiments import protocol
from scripts.experiments.comparison import DGCMM_ROW, Contender, best_baseline, compare, contenders
from scripts.experiments.protocol import ALL, BY_NAME, TABLE
from scripts.experiments.results import read_health, values_of
from scripts.experiments.significance import LEVEL, paired_difference

NOTHING = "No run of this table has been made yet."
LINE = 120  # characters of prose


def points(value: float) -> str:
    """Write a difference of fractions in points, with its sign."""
    return f"{100 * value:+.2f}"


def verdict(results: Path, stage: str = "table", regime: str = ALL.name, condition: str | None = None) -> str:
    """Say in a sentence what the table says: which row of DGCMM is first, and whether it is ahead.

    The first is chosen by the numbers that it is compared by; so it is called ahead or behind by Holm's p.
    """
    rows = contenders(results, stage, regime, condition)
    baseline, comparisons = compare(rows)
    if not comparisons:
        return NOTHING
    first = max(comparisons, key=lambda one: (len(one.difference.values), one.difference.mean))
    found, names = first.difference, (first.contender.title, baseline.title)
    partial = ""
    if len(found.values) < len(TABLE):
        partial = f" So far on {len(found.values)} of {len(TABLE)} subsets."
    elif any(len(one.values) < len(TABLE) for one in rows):
        partial = " Other rows have not all their subsets yet."
    missing = [name for name in rows_of(stage) if name not in {one.row.name for one in rows}]
    if missing:
        partial += f" {len(missing)} of {len(rows_of(stage))} rows have not been run yet."
    if first.p is None:
        said = f"{names[0]} against {names[1]}: {points(found.mean)} points, without an interval yet."
    else:
        ends = f"95 % interval {points(found.low)} to {points(found.high)}, p {first.p:.3f} after Holm"
        verb = "is level with" if first.p > 1 - LEVEL else "is ahead of" if found.mean > 0 else "is behind"
        said = f"{names[0]} {verb} {names[1]} ({points(found.mean)} points, {ends})."
    return textwrap.fill(said + partial, LINE, break_on_hyphens=False)


def rows_of(stage: str) -> tuple[str, ...]:
    """List the rows that the table of a stage is to have."""
    return tuple(BY_NAME) if stage == "table" else protocol.IN_TENTH


def generative_gains(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """List what DGCMM with the learned mixture gives beside its accuracy, as far as it was measured."""
    rows = contenders(results, stage, regime)
    found = next((one for one in rows if one.row.name == DGCMM_ROW), None)
    baseline = best_baseline(rows)
    gains = [*(calibration_gain(found, baseline) if baseline else ()), *health_gains(found)] if found else []
    lines = [textwrap.fill(f"- {gain}", LINE, subsequent_indent="  ", break_on_hyphens=False) for gain in gains]
    return "\n".join([f"{found.row.title}, beside its accuracy:", "", *lines]) if lines else NOTHING


def calibration_gain(found: Contender, baseline: Contender) -> Iterator[str]:
    """Compare the calibration as trained: adjusted by more, every model is better calibrated."""
    sides = [values_of(one.runs, "trained", "calibration_error") for one in (found, baseline)]
    common = sorted(sides[0].keys() & sides[1].keys())
    if not common:
        return
    values = [[side[subset] for subset in common] for side in sides]
    ours, theirs = map(statistics.fmean, values)
    difference = paired_difference(*values)
    said = (
        f"calibration error as trained {ours:.3f}, {baseline.row.title} {theirs:.3f}: {points(difference.mean)} points"
    )
    if difference.p is not None:
        said += f" (95 % {points(difference.low)} to {points(difference.high)})"
    yield said


def health_gains(found: Contender) -> Iterator[str]:
    """Say what the generative half can do."""
    healths = [read_health(run) for run in found.runs]
    names = ("acsa_mixture", "mse", "mse_class_mean", "recognised_samples")
    measured = {name: [health[name] for health in healths if name in health] for name in names}
    mean = {name: statistics.fmean(values) for name, values in measured.items() if values}
    if "acsa_mixture" in mean:
        yield f"a classifier by the mixture alone, without re-training: ACSA {mean['acsa_mixture']:.3f}"
    if "mse" in mean and "mse_class_mean" in mean:
        yield f"a decoder: squared error {mean['mse']:.3f}, the class's mean image {mean['mse_class_mean']:.3f}"
    if "recognised_samples" in mean:
        share = mean["recognised_samples"]
        yield f"samples of the components: another classifier recognises {share:.2f} of them, by chance 0.10"
