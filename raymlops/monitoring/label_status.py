"""How many predictions have a label, and how long labels take: per version, per slice, per day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.monitoring.label_match import micros
from raymlops.monitoring.label_shape import INPUT, canonical
from raymlops.monitoring.label_units import answered
from raymlops.monitoring.labelled import read_labelled
from raymlops.serving.parts import days_between
from raymlops.serving.prediction_reader import predictions_path, read_predictions
from raymlops.store import Store

MISSING = "(missing)"


@dataclass(frozen=True)
class Coverage:
    """Of the predictions of one version, slice or day."""

    name: str
    predictions: int
    """Rows answered (copies for shadows are not)."""
    labelled: int
    median_delay_s: float | None
    """Seconds from prediction to label; None without labels."""
    p90_delay_s: float | None

    @property
    def share(self) -> float:
        return self.labelled / self.predictions if self.predictions else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "share": self.share}


@dataclass(frozen=True)
class LabelStatus:
    total: Coverage
    versions: list[Coverage]
    days: list[Coverage]
    """By the day (UTC) of the prediction."""
    slices: dict[str, list[Coverage]]
    """Column → its most frequent values."""

    def to_dict(self) -> dict[str, Any]:
        def plain(found: list[Coverage]) -> list[dict[str, Any]]:
            return [coverage.to_dict() for coverage in found]

        slices = {column: plain(found) for column, found in self.slices.items()}
        return {
            "total": self.total.to_dict(),
            "versions": plain(self.versions),
            "days": plain(self.days),
            "slices": slices,
        }


class _Tally:
    def __init__(self) -> None:
        self.predictions: dict[str, int] = defaultdict(int)
        self.delays: dict[str, list[float]] = defaultdict(list)

    def predicted(self, names: Sequence[str]) -> None:
        for name, count in zip(*np.unique(np.asarray(names, dtype=object), return_counts=True), strict=True):
            self.predictions[str(name)] += int(count)

    def labelled(self, names: Sequence[str], delays: np.ndarray) -> None:
        for name, delay in zip(names, delays.tolist(), strict=True):
            self.delays[name].append(delay)

    def coverage(self, name: str) -> Coverage:
        delays = self.delays.get(name, [])
        median, p90 = np.quantile(delays, [0.5, 0.9]).tolist() if delays else (None, None)
        return Coverage(name, max(self.predictions.get(name, 0), len(delays)), len(delays), median, p90)

    def by_name(self) -> list[Coverage]:
        return [self.coverage(name) for name in sorted({*self.predictions, *self.delays})]

    def most_frequent(self, most: int) -> list[Coverage]:
        found = sorted(self.by_name(), key=lambda coverage: (-coverage.predictions, coverage.name))
        return found[:most]


def label_status(
    store: Store,
    endpoint: str,
    since: datetime,
    until: datetime,
    slices: Sequence[str] = (),
    most_slices: int = 20,
) -> LabelStatus:
    """Of predictions made in [since, until), two aware times, as far as labels are joined.

    `slices` are input columns whose `most_slices` most frequent values are reported. Reads the log a day at a time.
    Raises StoreError and IntegrityError.
    """
    total, versions, days = _Tally(), _Tally(), _Tally()
    by_slice = {column: _Tally() for column in slices}
    columns = ["time", "version", "status", "output.prediction", *(INPUT + column for column in slices)]
    for day in days_between(store.list(predictions_path(endpoint)), since, until):
        name = day.removeprefix("date=")
        start = datetime.fromisoformat(name).replace(tzinfo=UTC)
        span = max(since, start), min(until, start + timedelta(days=1))
        made = answered(read_predictions(store, endpoint, *span, columns))
        labelled = read_labelled(store, endpoint, *span, ["time", "labelled_at", "version", *slices])
        delays = (micros(labelled.column("labelled_at")) - micros(labelled.column("time"))) / 1e6
        for tally, before, after in (
            (total, ["all"] * made.num_rows, ["all"] * labelled.num_rows),
            (days, [name] * made.num_rows, [name] * labelled.num_rows),
            (versions, made.column("version").to_pylist(), labelled.column("version").to_pylist()),
            *((t, _values(made, INPUT + column), _values(labelled, column)) for column, t in by_slice.items()),
        ):
            tally.predicted(before)
            tally.labelled(after, delays)
    return LabelStatus(
        total.coverage("all"),
        versions.by_name(),
        days.by_name(),
        {column: tally.most_frequent(most_slices) for column, tally in by_slice.items()},
    )


def logged_slices(config: Config) -> list[str]:
    """Columns under `gate.slices` that the prediction log has."""
    kept = set(config.features.raw_columns()) - set(config.serving.log.redact)
    return [name for name in config.gate.slices if name in kept]


def _values(table: pa.Table, name: str) -> list[str]:
    return [value or MISSING for value in canonical(name, table.column(name), table.num_rows)]
