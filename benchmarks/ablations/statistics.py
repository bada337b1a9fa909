"""What five seeds allow to say: mean, deviation, and the paired difference of two networks with its interval."""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95


class Summary(NamedTuple):
    """Accuracies of one network over its seeds."""

    runs: int
    mean: float
    deviation: float
    """With ``n - 1``; NaN for a single run."""


class Difference(NamedTuple):
    """One network less another, over the seeds that both have."""

    runs: int
    mean: float
    low: float
    """Lower end of the 95 % interval (paired t); NaN for fewer than two seeds, as are the next two."""
    high: float
    p: float
    """Of the two-sided paired t-test."""


def summarise(by_seed: Mapping[int, float]) -> Summary:
    """Return mean and standard deviation of the values of all seeds."""
    values = list(by_seed.values())
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(len(values), statistics.fmean(values), deviation)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return ``first - second`` over their common seeds, ``None`` if there are none.

    Networks of one seed share data, order and augmentation, so that the differences vary less than the accuracies.
    Differences that are all alike, which the t-test cannot judge, get an interval of width zero and no p-value.
    """
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) == 1:
        return Difference(1, mean, math.nan, math.nan, math.nan)
    if max(differences) - min(differences) < 1e-9:
        return Difference(len(seeds), mean, mean, mean, math.nan)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(len(seeds), mean, float(low), float(high), float(test.pvalue))
