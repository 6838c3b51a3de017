"""Fitting by partial results that merge in any order to the same state, to the last bit.

Means, deviations and quantiles come from a bottom-k sample: the k rows with the smallest content hashes. It is a
uniform sample without replacement (Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC 2007), merges by
keeping the k smallest of both sides, and does not depend on file layout or block order; with k rows or fewer it is
everything. Sums are taken with `math.fsum`, which is exact and therefore independent of order and processor. Extremes
and category counts are exact over all rows.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymlops.config.features import FeaturesConfig, NumericFeature
from raymlops.errors import DataError
from raymlops.features.columns import natural_kind
from raymlops.features.dates import year
from raymlops.features.derive import Functions, with_derived
from raymlops.features.rows import Rows
from raymlops.features.state import FeatureState, NumericState
from raymlops.features.transform import shaped

SAMPLE = 131_072
"""Rows sampled; the standard error of a mean is then 0.3 % of a standard deviation."""
MAX_DISTINCT = 1_000_000
TARGET = "\0target"
"""Key of the label among the sampled columns; no real column can have this name."""


@dataclass
class FitPartial:
    """What one block of training rows contributes."""

    row_ids: np.ndarray
    sample: dict[str, np.ndarray]
    """float64 per numeric feature, per date feature with a year, and for a regression label; aligned with `row_ids`."""
    extremes: dict[str, tuple[float, float]]
    counts: dict[str, Counter[str]]
    kinds: dict[str, str]
    rows: int
    bad_labels: int

    def __post_init__(self) -> None:
        for name, counter in self.counts.items():
            if len(counter) > MAX_DISTINCT:
                shown = "label" if name == TARGET else f"features.categorical.{name}"
                raise DataError(
                    f"{shown}: found more than {MAX_DISTINCT:,} distinct values; this is not a category but an "
                    "identifier or a number: declare it numeric, derive a coarser feature from it, or leave it out"
                )

    @classmethod
    def from_batch(
        cls, config: FeaturesConfig, task: str, target: str, functions: Functions, table: Any, row_ids: np.ndarray
    ) -> FitPartial:
        """Summarise a pyarrow Table of training rows; `row_ids` are uint64 content hashes, one per row."""
        kinds = {c: natural_kind(table.column(c)) for d in config.derived.values() for c in d.inputs}
        rows = with_derived(config, functions, kinds, Rows.of(table))
        numeric = {name: rows.numbers(name) for name in config.numeric}
        extremes = {}
        for name, values in numeric.items():
            present = values[~np.isnan(values)]
            extremes[name] = (float(present.min()), float(present.max())) if present.size else (math.inf, -math.inf)
        counts = {name: _count(rows, name) for name in config.categorical}
        bad = 0
        if task == "regression":
            numeric[TARGET] = rows.numbers(target)
            bad = int(np.isnan(numeric[TARGET]).sum())
        else:
            counts[TARGET] = _count(rows, target)
            bad = rows.length - counts[TARGET].total()
        for name, dates in config.dates.items():
            if "year" in dates.parts:
                times = rows.times(name)
                numeric[f"{name}:year"] = np.where(np.isnat(times), np.nan, year(times))
        partial = cls(row_ids.astype(np.uint64), numeric, extremes, counts, kinds, rows.length, bad)
        return partial._trimmed()

    def merge(self, other: FitPartial) -> FitPartial:
        """Both together. Raises DataError when a categorical column has too many distinct values to be one."""
        counts = {name: self.counts[name] + other.counts[name] for name in self.counts}
        low, high = self.extremes, other.extremes
        return FitPartial(
            row_ids=np.concatenate([self.row_ids, other.row_ids]),
            sample={name: np.concatenate([values, other.sample[name]]) for name, values in self.sample.items()},
            extremes={n: (min(low[n][0], high[n][0]), max(low[n][1], high[n][1])) for n in low},
            counts=counts,
            kinds={n: _wider(kind, other.kinds[n]) for n, kind in self.kinds.items()},
            rows=self.rows + other.rows,
            bad_labels=self.bad_labels + other.bad_labels,
        )._trimmed()

    def _trimmed(self) -> FitPartial:
        if len(self.row_ids) > SAMPLE:
            # Ties at the border are rows of equal content, so it does not matter which of them stay.
            kept = np.argpartition(self.row_ids, SAMPLE - 1)[:SAMPLE]
            self.row_ids = self.row_ids[kept]
            self.sample = {name: values[kept] for name, values in self.sample.items()}
        return self

    def finish(self, config: FeaturesConfig, task: str) -> FeatureState:
        """The fitted state. Raises DataError for all-missing columns and for labels that do not fit the task."""
        if self.rows == 0:
            raise DataError("features: there are no training rows to fit on")
        if self.bad_labels:
            raise DataError(f"label: {self.bad_labels} of {self.rows} training rows have no usable value")
        numeric = {name: self._checked_numeric(name, feature) for name, feature in config.numeric.items()}
        categories = {}
        for name, feature in config.categorical.items():
            ranked = sorted(self.counts[name].items(), key=lambda item: (-item[1], item[0]))
            kept = [value for value, count in ranked if count >= feature.min_count][: feature.max_categories]
            if not self.counts[name]:
                raise DataError(f"features.categorical.{name}: all {self.rows} training rows are missing")
            categories[name] = tuple(kept)
        years = {}
        for name, dates in config.dates.items():
            if "year" in dates.parts:
                known = _present(self.sample[f"{name}:year"])
                mean, deviation = _moments(known) if known.size else (0.0, 0.0)
                years[name] = NumericState(fill=mean, center=mean, scale=deviation or 1.0)
        inputs = {name: "text" if kind == "null" else kind for name, kind in self.kinds.items()}
        return FeatureState(numeric, categories, years, inputs, self._target(task), self.rows, len(self.row_ids))

    def _checked_numeric(self, name: str, feature: NumericFeature) -> NumericState:
        try:
            state = self._fit_numeric(name, feature)
            usable = all(map(math.isfinite, (state.fill, state.center, state.scale)))
        except OverflowError:
            usable = False
        if not usable:
            low, high = self.extremes[name]
            raise DataError(
                f"features.numeric.{name}: values from {low:g} to {high:g} (fill {feature.fill:g}) cannot be scaled in "
                "double precision; expected magnitudes below about 1e150"
            )
        return state

    def _fit_numeric(self, name: str, feature: NumericFeature) -> NumericState:
        known = _present(self.sample[name])
        low, high = self.extremes[name]
        if low > high or not known.size:
            raise DataError(f"features.numeric.{name}: all {self.rows} training rows are missing (or infinite)")
        if feature.impute == "constant":
            fill = feature.fill
        else:
            fill = _moments(known)[0] if feature.impute == "mean" else _quantile(known, 0.5)
        values = np.sort(shaped(known, feature.transform))
        mean, deviation = _moments(values)
        if feature.scale == "none":
            return NumericState(fill, 0.0, 1.0)
        if feature.scale == "minmax":
            low, high = (float(v) for v in shaped(np.array([low, high]), feature.transform))
            return NumericState(fill, low, (high - low) or 1.0)
        if feature.scale == "robust":
            spread = _quantile(values, 0.75) - _quantile(values, 0.25)
            return NumericState(fill, _quantile(values, 0.5), spread or deviation or 1.0)
        return NumericState(fill, mean, deviation or 1.0)

    def _target(self, task: str) -> dict[str, Any]:
        if task == "regression":
            try:
                mean, deviation = _moments(self.sample[TARGET])
            except OverflowError:
                mean = deviation = math.inf
            if not math.isfinite(deviation):
                largest = np.abs(self.sample[TARGET]).max()
                raise DataError(
                    f"label: values up to {largest:g} cannot be scaled; expected magnitudes below about 1e150"
                )
            return {"mean": mean, "scale": deviation or 1.0}
        found = self.counts[TARGET]
        numbers = all(re.fullmatch(r"-?[0-9]+", label) for label in found)
        classes = sorted(found, key=lambda label: (int(label), label) if numbers else label)
        if task == "binary" and len(classes) != 2:
            raise DataError(f"label: task binary needs 2 classes, training rows have {len(classes)}: {classes[:10]}")
        if len(classes) < 2:
            raise DataError(f"label: task multiclass needs at least 2 classes, training rows have only {classes}")
        return {"classes": classes}

    def to_bytes(self) -> bytes:
        """For the way between processes: NumPy arrays and JSON, no pickle."""
        head = {
            "extremes": self.extremes,
            "counts": self.counts,
            "kinds": self.kinds,
            "rows": self.rows,
            "bad_labels": self.bad_labels,
            "sample": list(self.sample),
        }
        arrays = {f"s{i}": values for i, values in enumerate(self.sample.values())}
        out = io.BytesIO()
        packed: dict[str, Any] = {"row_ids": self.row_ids, "head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        np.savez(out, **packed | arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> FitPartial:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            return cls(
                row_ids=arrays["row_ids"],
                sample={name: arrays[f"s{i}"] for i, name in enumerate(head["sample"])},
                extremes={name: (low, high) for name, (low, high) in head["extremes"].items()},
                counts={name: Counter(counts) for name, counts in head["counts"].items()},
                kinds=head["kinds"],
                rows=head["rows"],
                bad_labels=head["bad_labels"],
            )


def _count(rows: Rows, name: str) -> Counter[str]:
    distinct: list[str | None] = []

    def remember(value: str | None) -> int:
        distinct.append(value)
        return len(distinct) - 1

    # Each distinct stored value gets a number; several stored values may share one text.
    numbers = np.bincount(rows.codes(name, remember), minlength=1)
    counts: Counter[str] = Counter()
    for value, count in zip(distinct, numbers.tolist(), strict=False):
        if value is not None and count:
            counts[value] += count
    return counts


def _present(values: np.ndarray) -> np.ndarray:
    return np.sort(values[~np.isnan(values)])


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation from exactly rounded sums; exactly 0 for equal values."""
    items = values.tolist()
    if min(items) == max(items):  # else the rounded mean can leave a deviation of 1e-17, and dividing by it is fatal
        return items[0], 0.0
    mean = math.fsum(items) / len(items)
    return mean, math.sqrt(math.fsum((x - mean) * (x - mean) for x in items) / len(items))


def _quantile(ordered: np.ndarray, q: float) -> float:
    """Linear interpolation between order statistics (Hyndman & Fan, type 7)."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (high - low) * (position - below)


def _wider(a: str, b: str) -> str:
    if "null" in (a, b):
        return b if a == "null" else a
    return a if a == b else "text"
