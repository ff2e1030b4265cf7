"""The rows of a stage with their runs, and how those of DGCMM compare with the best baseline."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.experiments import protocol
from scripts.experiments.choices import FILE, Choice, read_choices
from scripts.experiments.protocol import Row
from scripts.experiments.results import Run, read_runs, values_of, values_under
from scripts.experiments.significance import Difference, holm, paired_difference
from utils.errors import UserError

DGCMM_ROW = "dgcmm"  # the method as it is meant: with the learned mixture
WITHOUT_MIXTURE = "dgcmm-off"
AS_TRAINED = Choice(0.0, 0.0, {}, "trained", 0, ())  # of a row of which nothing was chosen


class Contender(NamedTuple):
    """A row of a table with its runs, and the method on its codes that was chosen on validation images.

    Attributes:
        values: subset -> ACSA on the test set.
    """

    row: Row
    runs: list[Run]
    method: str
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
    """A row against the best baseline, on the subsets that both have; p is Holm's, None where there is no test."""

    contender: Contender
    difference: Difference
    p: float | None


def contenders(results: Path, stage: str, regime: str, condition: str | None = None) -> list[Contender]:
    """Gather the rows of a stage that have a run, in the order of the protocol.

    Args:
        condition: of the test images, a key of `CORRUPTIONS`; None: as they are.

    Raises:
        UserError: a run was trained with another setting, or measured with other methods or other values of them,
            than are chosen now.
    """
    chosen = read_choices(results / FILE).get(regime, {})
    found = []
    for row in protocol.ROWS:
        runs = read_runs(results / stage / row.name)
        choice = chosen.get(row.name, AS_TRAINED)
        for run in runs:
            if choice is not AS_TRAINED:
                require_setting(run, row, choice)
            require_measured(run, choice, condition)
        if runs:
            found.append(Contender(row, runs, choice.method, acsa_of(runs, choice.method, condition)))
    return found


def acsa_of(runs: Sequence[Run], method: str, condition: str | None) -> dict[int, float]:
    """Take the ACSA of a method, under a condition if one is given: subset -> value, of the runs that have it."""
    return values_under(runs, method, condition, "acsa") if condition else values_of(runs, method, "acsa")


def require_setting(run: Run, row: Row, choice: Choice) -> None:
    """Raise a `UserError` if a run was trained with another learning rate or own parameter than was chosen."""
    for flag, chosen in (("--lr", choice.rate), (row.own, choice.own)):
        used = run.arguments.get(flag.strip("-").replace("-", "_"), chosen)
        if used != chosen:
            raise UserError(f"{run.folder} has {flag}={used}, chosen is {chosen} now: {remedy(run)}")


def require_measured(run: Run, choice: Choice, condition: str | None) -> None:
    """Raise a `UserError` if a run was not measured by the method of a choice, or with other values of methods."""
    for method, chosen in choice.values.items():
        used = run.methods.get(method, {}).get("value", chosen)
        if used != chosen:
            raise UserError(f"{method} has the value {used} in {run.folder}, chosen is {chosen} now: {remedy(run)}")
    if not acsa_of([run], choice.method, condition):
        under = f" under {condition}" if condition else ""
        raise UserError(f"{choice.method} is chosen now, {run.folder} has no measurement of it{under}: {remedy(run)}")


def remedy(run: Run) -> str:
    """Say what to do about a run that is not as was chosen."""
    return f"move {run.folder} away, and the stage makes it again"


def best_baseline(rows: Sequence[Contender]) -> Contender | None:
    """Find the baseline with the best mean, among those with the most subsets."""
    return best_of([one for one in rows if one.row.plain])


def best_of(rows: Sequence[Contender]) -> Contender | None:
    """Find the row with the best mean, among those with the most subsets."""
    most = max((len(one.values) for one in rows), default=0)
    return max((one for one in rows if len(one.values) == most), key=lambda one: one.mean, default=None)


def compare(rows: Sequence[Contender]) -> tuple[Contender | None, list[Comparison]]:
    """Compare every row of DGCMM with the best baseline; Holm's correction is over these rows."""
    baseline = best_baseline(rows)
    if baseline is None:
        return None, []
    differences = []
    for one in rows:
        common = sorted(one.values.keys() & baseline.values.keys())
        if not one.row.plain and common:
            pairs = ([side.values[subset] for subset in common] for side in (one, baseline))
            differences.append((one, paired_difference(*pairs)))
    adjusted = iter(holm([found.p for _, found in differences if found.p is not None]))
    return baseline, [Comparison(one, found, None if found.p is None else next(adjusted)) for one, found in differences]
