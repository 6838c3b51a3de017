"""From measured loads to the numbers that are claimed: medians over repeats, ratios, costs. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import binom

from benchmarks.serving_lib.load import Load

Samples = Mapping[str, Mapping[int, Sequence[Load]]]
"""Contender → connections → one load per repeat."""


def median(samples: Samples, name: str, connections: int, value: str = "rate") -> float:
    """Median over repeats of a field of Load; NaN for what was not measured."""
    found = [getattr(load, value) for load in samples.get(name, {}).get(connections, ())]
    return middle(found)


def spread(samples: Samples, name: str, connections: int) -> float:
    """(largest − smallest) / median throughput over repeats; NaN for what was not measured."""
    rates = [load.rate for load in samples.get(name, {}).get(connections, ())]
    return (max(rates) - min(rates)) / statistics.median(rates) if rates else math.nan


def ratio(samples: Samples, name: str, other: str, connections: int) -> float:
    """Throughput of `name` as a multiple of that of `other`; NaN if either was not measured."""
    return median(samples, name, connections) / median(samples, other, connections)


def least_ratio(samples: Samples, name: str, others: Iterable[str], connections: Iterable[int]) -> tuple[float, str]:
    """The smallest ratio of `name` to any of `others` that was measured, and where; (NaN, "") without one."""
    found = [(ratio(samples, name, other, c), f"{other}, c = {c}") for other in others for c in connections]
    return min((pair for pair in found if not math.isnan(pair[0])), default=(math.nan, ""))


def costs(pairs: Iterable[Sequence[float]]) -> list[float]:
    """Of pairs (with, without): the share of the throughput that is lost with it; below zero when none is."""
    return [1.0 - on / off for on, off in pairs]


def middle(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return float(statistics.median(values)) if values else math.nan


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what the values were drawn from is, in 95 of 100 times at least, by how many of them lie on
    either side of it (the inverted sign test); (NaN, NaN) of fewer than six."""
    beyond = int(binom.ppf(0.025, len(values), 0.5)) if values else 0
    if beyond == 0:
        return math.nan, math.nan
    ordered = sorted(values)
    return ordered[beyond - 1], ordered[-beyond]


def errors(samples: Samples, name: str) -> int:
    """Requests that were not answered with 2xx, over everything measured."""
    return sum(load.errors for loads in samples.get(name, {}).values() for load in loads)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed. Raises ValueError when there are none."""
    if not values:
        raise ValueError("quantile of no values")
    return sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)]


def shown(value: float, suffix: str = "") -> Any:
    """A number for a table; an en dash for what was not measured."""
    return "–" if math.isnan(value) else f"{value:.3g}{suffix}" if suffix else value
