"""Paired differences and Holm's correction, against scipy and an example by hand."""

import numpy as np
import pytest
from scipy import stats

from scripts.experiments.significance import holm, paired_difference

FIRST, SECOND = [0.881, 0.879, 0.886, 0.884, 0.880], [0.878, 0.880, 0.881, 0.879, 0.878]


def test_difference_is_scipys_paired_t_test():
    found = paired_difference(FIRST, SECOND)
    test = stats.ttest_rel(FIRST, SECOND)
    assert found.p == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert found.values == pytest.approx([0.003, -0.001, 0.005, 0.005, 0.002])
    assert found.low < 0 < found.high  # t = 2.53 is below the 2.78 that five pairs need


def test_interval_that_excludes_0_has_a_small_p():
    found = paired_difference([0.5, 0.51, 0.49], [0.4, 0.4, 0.4])
    assert found.low > 0
    assert found.p < 0.05


@pytest.mark.parametrize(("values", "others"), [([0.5], [0.4]), ([0.5, 0.5], [0.5, 0.5]), ([0.9, 0.8], [0.8, 0.7])])
def test_without_spread_there_is_no_test(values, others):
    found = paired_difference(values, others)
    assert (found.low, found.high, found.p) == (None, None, None)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
