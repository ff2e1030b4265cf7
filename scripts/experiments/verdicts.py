"""What the tables say, in sentences: who is first, whether it is ahead, and what else was measured."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.experiments.choices import read_choices
from scripts.experiments.comparison import (
    DGCMM_ROW,
    WITHOUT_MIXTURE,
    Contender,
    best_baseline,
    compare,
    contenders,
    difference_between,
)
from scripts.experiments.corruption import CORRUPTIONS, NOISE
from scripts.experiments.generative import LOOKED_AT
from scripts.experiments.posthoc import RATES
from scripts.experiments.protocol import ALL, BY_NAME, CHOSEN, JUDGES, TABLE
from scripts.experiments.results import Run, read_generative_half, values_of, values_under
from scripts.experiments.significance import Difference, paired_difference

NOTHING = "No run of this table has been made yet."
LINE = 120  # characters of prose
RECOGNISED = ("images", "blurred", "reconstructions", "samples")


def points(value: float) -> str:
    """Write a difference of fractions in points, with its sign."""
    return f"{100 * value:+.2f}"


def marked(title: str, found: int, wanted: int) -> str:
    """Mark a row that has not all its subsets."""
    return title if found >= wanted else f"{title} ({found} of {wanted} subsets)"


def verdict(results: Path, stage: str = "table", regime: str = ALL.name) -> str:
    """Say what a table says, of clean images and under noise: which row of DGCMM is first, and whether it is ahead."""
    rows = contenders(results, stage, regime)
    said = [comparison(rows, "On clean images"), comparison(contenders(results, stage, regime, NOISE), "Under noise")]
    if not said[0]:
        return NOTHING
    if any(len(one.values) < len(TABLE) for one in rows):
        said.append("Some rows have not all their subsets yet.")
    wanted, _ = CHOSEN[stage]
    missing = [name for name in wanted if name not in {one.row.name for one in rows}]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        titles = "; ".join(BY_NAME[name].title for name in missing)
        said.append(f"{len(missing)} of {len(wanted)} rows {have} not been run yet: {titles}.")
    return textwrap.fill(" ".join(filter(None, said)), LINE, break_on_hyphens=False)


def comparison(rows: Sequence[Contender], where: str) -> str:
    """Say which row of DGCMM is first, and how it compares with the best baseline; '' where there is nothing to say.

    The first is chosen by the numbers that it is compared by; so Holm's p says whether the difference is significant.
    """
    baseline, comparisons = compare(rows)
    if not comparisons:
        return ""
    first = max(comparisons, key=lambda one: (len(one.difference.values), one.difference.mean))
    title, other = f"{where} the best row of DGCMM ({first.contender.title})", f"the best baseline ({baseline.title})"
    ours, theirs = first.means
    gap = f"{ours:.4f} against {theirs:.4f}, {points(first.difference.mean)} points"
    if first.p is None:
        said = f"{title} and {other}: {gap}, without an interval yet."
    else:
        tests = sum(one.p is not None for one in comparisons)
        alone, holm = (" uncorrected", f" after Holm over {tests} rows") if tests > 1 else ("", "")
        ends = f"{points(first.difference.low)} to {points(first.difference.high)}"
        said = f"{title} {first.verb} {other}: {gap} (95 %{alone} {ends}; p {first.p:.3f}{holm})."
    found = len(first.difference.values)
    return said if found >= len(TABLE) else f"{said} So far on {found} of {len(TABLE)} subsets."


def besides(results: Path, stage: str = "table", regime: str = ALL.name, name: str = DGCMM_ROW) -> str:
    """List what else was measured of a row of DGCMM with the learned mixture, good or bad."""
    rows = contenders(results, stage, regime)
    found = next((one for one in rows if one.row.name == name), None)
    if found is None:
        return NOTHING
    choice = read_choices(results).get(regime, {}).get(name)
    said = [*retraining(found, choice.values if choice else {}), *calibration(found, rows), *generative_half(found)]
    said += under_conditions(found, rows)
    if name == DGCMM_ROW and any(one.row.name == WITHOUT_MIXTURE for one in rows):
        said += ablation(rows, contenders(results, stage, regime, NOISE))
    lines = [textwrap.fill(f"- {line}", LINE, subsequent_indent="  ", break_on_hyphens=False) for line in said]
    title = marked(found.row.title, len(found.runs), len(TABLE))
    return "\n".join([f"{title}, besides:", *lines]) if lines else NOTHING


def mean_of(runs: Sequence[Run], method: str) -> float | None:
    """Average the ACSA of a method over the runs; None where one has not measured it."""
    values = values_of(runs, method, "acsa")
    return statistics.fmean(values.values()) if len(values) == len(runs) else None


def retraining(found: Contender, values: dict[str, float | str]) -> Iterator[str]:
    """Say what re-training does from both starts, and at which learning rates, which are the methods' `values`."""
    said = []
    for start in ("", "-adjusted"):
        cases = [f"{case}{start}" for case in ("case-1", "case-2")]
        means = [mean_of(found.runs, case) for case in cases]
        if None in means:
            return
        accuracies = ", ".join(f"{mean:.4f}" for mean in means)
        rates = [values[case] for case in cases if case in values]
        shown = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
        said.append(accuracies + (f" (lr {shown}{_if_at_an_end(rates)})" if rates else ""))
    yield f"re-trained by Case 1, Case 2: {'; from the adjusted start '.join(said)}"


def _if_at_an_end(rates: Sequence[float]) -> str:
    """Say that learning rates are all the smallest or the largest that was tried: another one may be better."""
    if set(rates) == {RATES[0]}:
        return ", the smallest tried"
    return ", the largest tried" if set(rates) == {RATES[-1]} else ""


def under_conditions(found: Contender, rows: Sequence[Contender]) -> Iterator[str]:
    """Compare with the best baseline on clean images, as they are and under each condition."""
    baseline = best_baseline(rows)
    if baseline is None:
        return
    said = []
    for condition in CORRUPTIONS:
        ours, theirs = (values_under(one.runs, one.method, condition, "acsa") for one in (found, baseline))
        if difference := difference_between(ours, theirs):
            said.append(f"{condition} {points(difference.mean)}{interval(difference)}")
    if said:
        yield f"against {baseline.title}, in points: {', '.join(said)}"


def ablation(clean: Sequence[Contender], noisy: Sequence[Contender]) -> Iterator[str]:
    """Compare the learned mixture with none, on clean images and under noise."""
    said = []
    for rows in (clean, noisy):
        names = DGCMM_ROW, WITHOUT_MIXTURE
        ours, without = (next(one.values for one in rows if one.row.name == name) for name in names)
        if ours.keys() != without.keys():
            return
        difference = paired_difference(list(ours.values()), list(without.values()))
        said.append(f"{points(difference.mean)} points{interval(difference)}")
    yield f"against the row without a mixture, each with the settings chosen for it: {', under noise '.join(said)}"


def interval(difference: Difference) -> str:
    """Write the interval of a difference in brackets; '' where there is none."""
    return "" if difference.p is None else f" (95 % {points(difference.low)} to {points(difference.high)})"


def calibration(found: Contender, rows: Sequence[Contender]) -> Iterator[str]:
    """Compare calibration with the baseline that has the best; as trained, for more adjustment calibrates any model."""
    ours = values_of(found.runs, "trained", "calibration_error")
    others = {one.row.title: values_of(one.runs, "trained", "calibration_error") for one in rows if one.row.plain}
    paired = {title: [of[subset] for subset in ours] for title, of in others.items() if of.keys() >= ours.keys()}
    if not ours or not paired:
        return
    best = min(paired, key=lambda title: statistics.fmean(paired[title]))
    errors = list(ours.values()), paired[best]
    means = [statistics.fmean(values) for values in errors]
    difference = paired_difference(*errors)
    yield (
        f"calibration error as trained {means[0]:.3f}; the lowest of a baseline ({best}) is {means[1]:.3f}: "
        f"{points(difference.mean)} points{interval(difference)}"
    )


def generative_half(found: Contender) -> Iterator[str]:
    """Say what mixture and decoder can do by themselves."""
    healths = [read_generative_half(run) for run in found.runs]
    names = set.intersection(*map(set, healths))  # what was measured of every run
    mean = {name: statistics.fmean(health[name] for health in healths) for name in names}
    if "acsa_mixture" in mean:
        said = f"by the mixture alone: ACSA {mean['acsa_mixture']:.3f} of {LOOKED_AT:,} images"
        nearest = mean_of(found.runs, "ncm")
        yield said + (f"; by the nearest class mean of codes {nearest:.3f} of all" if nearest is not None else "")
    if {"mse", "mse_class_mean"} <= mean.keys():
        yield f"squared error of the decoder {mean['mse']:.3f}, of the class's mean image {mean['mse_class_mean']:.3f}"
    for judge in JUDGES:
        shares = [mean.get(f"recognised_{what}_by_{judge}") for what in RECOGNISED]
        if None not in shares:
            images, blurred, reconstructions, samples = (f"{share:.2f}" for share in shares)
            yield (
                f"a {judge} trained on 18,000 images recognises {images} of images ({blurred} blurred), "
                f"{reconstructions} of reconstructions, {samples} of samples (by chance 0.10)"
            )
