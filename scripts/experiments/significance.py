"""Differences between paired measurements: interval, test, and correction for several tests at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
ROUNDING = 1e-9  # differences of shares that lie closer differ by rounding alone


class Difference(NamedTuple):
    """Differences of paired values.

    Attributes:
        values: each pair's.
        mean: theirs.
        low, high: interval of the mean at `LEVEL`, by Student's t; None with fewer than two pairs.
        p: of the two-sided paired t-test; None likewise, and where all differences are the same.
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p: float | None


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """Compare paired values, such as those of two methods on the same subsets: values - others."""
    found = np.subtract(values, others)
    if len(found) < 2 or np.ptp(found) < ROUNDING:
        return Difference(tuple(found.tolist()), float(found.mean()), None, None, None)
    test = stats.ttest_1samp(found, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Difference(
        tuple(found.tolist()), float(found.mean()), float(interval.low), float(interval.high), float(test.pvalue)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several, in their order (Holm, 1979): the i-th smallest of m times m - i + 1."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return adjusted.tolist()
