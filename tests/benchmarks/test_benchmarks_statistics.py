"""The statistics of the ablations, by hand and against scipy's."""

import math

import pytest
from scipy import stats

from benchmarks.ablations import report
from benchmarks.ablations.statistics import Difference, paired, summarise


def test_statistics_by_hand():
    first, second = {0: 61.0, 1: 64.0, 2: 60.0, 3: 66.0, 4: 63.0}, {4: 60.0, 3: 61.0, 2: 59.5, 1: 62.0, 0: 60.0}
    values = [1.0, 2.0, 0.5, 5.0, 3.0]
    mean = sum(values) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
    half = 2.7764451 * deviation / math.sqrt(5)  # the t quantile 0.975 with 4 degrees of freedom, from a table
    found = paired(first, second)
    assert found[:4] == pytest.approx((5, mean, mean - half, mean + half), rel=1e-6)
    order = range(5)
    assert found.p == pytest.approx(stats.ttest_rel([first[s] for s in order], [second[s] for s in order]).pvalue)
    assert summarise(second) == pytest.approx((5, 60.5, math.sqrt(4 / 4)))


def test_only_common_seeds_are_compared():
    found = paired({0: 1.0, 1: 5.0, 7: 90.0}, {0: 0.0, 1: 2.0, 3: 50.0})
    assert found[:2] == (2, 2.0)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 3.0}, {0: 1.0})[:2] == (1, 2.0)
    assert math.isnan(paired({0: 3.0}, {0: 1.0}).low)
    assert paired({0: 3.0, 1: 4.0}, {0: 2.0, 1: 3.0})[1:4] == (1.0, 1.0, 1.0)
    assert math.isnan(summarise({0: 3.0}).deviation)


@pytest.mark.parametrize(
    ("interval", "expected", "verdict"),
    [
        ((0.1, 2.0), 1.0, "as the paper"),
        ((-2.0, -0.1), 1.0, "opposite"),
        ((-0.1, 2.0), 1.0, "open"),
        ((math.nan, math.nan), 1.0, "open"),
        ((0.1, 2.0), None, "better"),
        ((-2.0, -0.1), None, "worse"),
        ((-2.0, -0.1), -0.5, "as the paper"),
    ],
)
def test_verdicts(interval, expected, verdict):
    low, high = interval
    assert report.verdict(Difference(5, (low + high) / 2, low, high, 0.01), expected) == verdict
