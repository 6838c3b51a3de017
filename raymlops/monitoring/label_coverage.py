"""Whether the labels of a day have come, and in time: what was counted for it, judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from raymlops.config.monitoring import LabelMonitor
from raymlops.monitoring.losses import OVERALL
from raymlops.monitoring.margins import divergence

CHANCE = 0.001
"""A share below the least is one that comes by chance more rarely than this, so that slices of few rows keep quiet."""
FEWEST = 20
"""Labels of a day whose delay says something."""
QUANTILE = 0.9


def label_line(delays: np.ndarray, of: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is kept of a day's labels: their delays in seconds, (n,), and the rows (n,) of each slice."""
    kept: dict[str, Any] = {"labelled_of": {name: int(mask.sum()) for name, mask in of.items()}}
    if len(delays) >= FEWEST:
        kept["delay_s"] = float(f"{np.quantile(delays, QUANTILE):.4g}")
    return kept


def label_problems(line: Mapping[str, Any], wanted: LabelMonitor) -> list[str]:
    """Of a day whose labels are due: `line` has its `rows`, `labelled`, both by slice, and the delay."""
    found = [] if wanted.min_share is None else list(_missing(line, wanted.min_share))
    delay = line.get("delay_s")
    if wanted.max_delay is not None and delay is not None and timedelta(seconds=delay) > wanted.max_delay:
        came = timedelta(seconds=round(delay))
        found.append(f"delay: {QUANTILE:.0%} of labels came within {came}, expected within {wanted.max_delay}")
    return found


def _missing(line: Mapping[str, Any], least: float) -> Iterator[str]:
    rows = {OVERALL: line["rows"], **line.get("rows_of", {})}
    labelled = {OVERALL: line.get("labelled", 0), **line.get("labelled_of", {})}
    for name, n in rows.items():
        k = min(labelled.get(name, 0), n)
        if n and k < least * n and n * float(divergence(k / n, least)) > -math.log(CHANCE):
            yield f"{name}: {k:,} of {n:,} predictions have a label ({k / n:.1%}), expected {least:.1%}"
