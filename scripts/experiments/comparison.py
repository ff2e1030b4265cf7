"""The rows of a stage with their runs, and how those of DGCMM compare with the best baseline."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.experiments import protocol
from scripts.experiments.choices import Choice, read_choices
from scripts.experiments.corruption import NOISE
from scripts.experiments.jobs import Job, require_current
from scripts.experiments.protocol import MADE, TENTH_18, Places, Row, Selection
from scripts.experiments.results import Run, read_runs, values_of, values_under
from scripts.experiments.significance import LEVEL, Difference, holm, paired_difference
from utils.errors import UserError

DGCMM_ROW = "dgcmm"  # the method as it is meant: with the learned mixture
STRONG_DECODER, WITHOUT_MIXTURE = "dgcmm-alive-mixup", "dgcmm-off"
# of the strong decoder's row on the fresh subsets, written down before their first run: (baseline, condition)
CONFIRMED = (("mixup", None), ("sqrt", NOISE), ("mixup", NOISE))
MEASURED_ALIKE = 1e-3  # ACSA measured twice, from codes and from images, differs by less than this
AS_TRAINED = Choice(0.0, 0.0, {}, "trained", 0, ())  # of a row of which nothing was chosen


class Contender(NamedTuple):
    """A row of a table with its runs, and the method on its codes that was chosen on validation images.

    Attributes:
        condition: of the test images, a key of `CORRUPTIONS`; None: as they are.
        values: subset -> ACSA on the test set.
    """

    row: Row
    runs: list[Run]
    method: str
    condition: str | None
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean ACSA over the subsets."""
        return statistics.fmean(self.values.values())

    @property
    def title(self) -> str:
        """Row and method as a table names them."""
        return self.row.title if self.method == "trained" else f"{self.row.title}, then {self.method}"


class Comparison(NamedTuple):
    """A row against a baseline, on the subsets that both have; p is Holm's, None where there is no test."""

    contender: Contender
    baseline: Contender
    difference: Difference
    p: float | None

    @property
    def means(self) -> tuple[float, float]:
        """Mean ACSA of both on the subsets that both have."""
        sides = self.contender.values, self.baseline.values
        common = sides[0].keys() & sides[1].keys()
        ours, theirs = (statistics.fmean(values[subset] for subset in common) for values in sides)
        return ours, theirs

    @property
    def verb(self) -> str:
        """Say how the row compares with the baseline, by Holm's p."""
        if self.p is None or self.p > 1 - LEVEL:
            return "is not significantly different from"
        return f"is significantly {'above' if self.difference.mean > 0 else 'below'}"


def contenders(results: Path, stage: str, regime: str, condition: str | None = None) -> list[Contender]:
    """Gather the rows of a stage that have a run, in the order of the protocol.

    Args:
        condition: of the test images, a key of `CORRUPTIONS`; None: as they are.

    Raises:
        UserError: a run was made by other commands than the protocol's with what is chosen now, or has no measurement
            of the method chosen.
    """
    chosen = read_choices(results).get(regime, {})
    jobs = jobs_of(stage, regime, chosen)
    found = []
    for row in protocol.ROWS:
        runs = read_runs_of(jobs, results, f"{stage}/{row.name}")
        method = chosen.get(row.name, AS_TRAINED).method
        for run in runs:
            require_measured(run, method, condition)
        if runs:
            found.append(Contender(row, runs, method, condition, acsa_of(runs, method, condition)))
    return found


def jobs_of(stage: str, regime: str, chosen: dict[str, Choice]) -> dict[str, Job]:
    """Make the jobs of a stage, such as 'table' or 'imbalance/50', of rows with a choice: folder -> job."""
    selection = Selection({regime: chosen}, Places("", ""), list(chosen))
    return {job.folder: job for job in MADE[stage.partition("/")[0]](selection)}


def read_runs_of(jobs: dict[str, Job], results: Path, folder: str) -> list[Run]:
    """Read the runs in a folder of the results; a `UserError` if one was made by other commands than its job's."""
    runs = read_runs(results / folder)
    for run in runs:
        job = jobs.get(f"{folder}/subset{run.subset}")
        for step in job.steps if job else ():
            require_current(step, run.folder)
    return runs


def acsa_of(runs: Sequence[Run], method: str, condition: str | None) -> dict[int, float]:
    """Take the ACSA of a method, under a condition if one is given: subset -> value, of the runs that have it."""
    return values_under(runs, method, condition, "acsa") if condition else values_of(runs, method, "acsa")


def require_measured(run: Run, method: str, condition: str | None) -> None:
    """Raise a `UserError` if a run was not measured by a method, or with other values of it under the conditions."""
    remedy = f"move {run.folder}, and what --runs has of it, away, and the stage makes it again"
    if not acsa_of([run], method, condition):
        under = f" under {condition}" if condition else ""
        raise UserError(f"{method} is chosen now, {run.folder} has no measurement of it{under}: {remedy}")
    table, beside = (list(acsa_of([run], method, where).values()) for where in (None, "clean"))
    if table and beside and abs(table[0] - beside[0]) > MEASURED_ALIKE:
        raise UserError(
            f"{method} has an ACSA of {table[0]:.4f} in {run.folder}, and of {beside[0]:.4f} in its "
            f"metrics_robustness.csv: {remedy}"
        )


def best_baseline(rows: Sequence[Contender]) -> Contender | None:
    """Find the baseline with the best mean, among those with the most subsets."""
    plain = [one for one in rows if one.row.plain]
    most = max((len(one.values) for one in plain), default=0)
    return max((one for one in plain if len(one.values) == most), key=lambda one: one.mean, default=None)


def difference_between(values: dict[int, float], others: dict[int, float]) -> Difference | None:
    """Compare two measurements (subset -> value) on the subsets that both have; None where they share none."""
    common = sorted(values.keys() & others.keys())
    return paired_difference(*([side[subset] for subset in common] for side in (values, others))) if common else None


def compare(rows: Sequence[Contender]) -> tuple[Contender | None, list[Comparison]]:
    """Compare every row of DGCMM with the best baseline; Holm's correction is over these rows."""
    baseline = best_baseline(rows)
    if baseline is None:
        return None, []
    return baseline, corrected([(one, baseline) for one in rows if not one.row.plain])


def confirmations(results: Path) -> list[Comparison]:
    """Make the comparisons of `CONFIRMED` that have runs; Holm's correction is over them."""
    pairs = []
    for name, condition in CONFIRMED:
        rows = {one.row.name: one for one in contenders(results, "confirm", TENTH_18.name, condition)}
        if {STRONG_DECODER, name} <= rows.keys():
            pairs.append((rows[STRONG_DECODER], rows[name]))
    return corrected(pairs)


def corrected(pairs: Sequence[tuple[Contender, Contender]]) -> list[Comparison]:
    """Compare rows with baselines, (row, baseline), with Holm's correction; pairs that share no subset are left out."""
    found = [(*pair, difference) for pair in pairs if (difference := difference_between(*(one.values for one in pair)))]
    adjusted = iter(holm([difference.p for *_, difference in found if difference.p is not None]))
    return [Comparison(*one, None if one[-1].p is None else next(adjusted)) for one in found]
