"""What a report adds up over the days of a log: losses by version and slice, counts by day. One day is in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymlops.config.tree import Config
from raymlops.data.contract import Contract
from raymlops.monitoring.attribution import CellShare, Moved, normal_shift
from raymlops.monitoring.cells import NumericCells
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.day_rows import clock, day_names, inputs_of
from raymlops.monitoring.display import distances
from raymlops.monitoring.estimates import Estimate
from raymlops.monitoring.label_shape import OUTPUT
from raymlops.monitoring.losses import OVERALL, slice_masks
from raymlops.monitoring.quality_days import typed
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.references import References
from raymlops.monitoring.report import Distance, SliceLoss, VersionDay
from raymlops.monitoring.row_losses import PREDICTION, labelled_errors

Pair = tuple[float, float]
"""Rows, and a sum over them."""


@dataclass
class ReportSums:
    """Of rows whose day is in [`first`, ∞). `version` is the champion."""

    config: Config
    version: str
    references: References
    contract: Contract | None
    estimate: Estimate | None
    first: str
    predictions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    losses: dict[tuple[str, str], Pair] = field(default_factory=dict)
    estimates: dict[str, Pair] = field(default_factory=dict)
    by_slice: dict[str, Pair] = field(default_factory=dict)
    cells: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Day → counts (cells,) of the champion's rows."""

    def logged(self, table: pa.Table) -> None:
        """Answered rows of the log."""
        for day, version, rows in self._parts(table):
            self.predictions[day, version] += rows.num_rows
            if version == self.version:
                self._champion(day, typed(self.contract, rows))

    def labelled(self, table: pa.Table) -> None:
        """Labelled rows."""
        if not self.config.monitoring.performance.enabled:
            return
        for day, version, rows in self._parts(table):
            losses = self.references.scale * self.references.losses(labelled_errors(self.config, rows))
            _add(self.losses, (day, version), losses)
            if version == self.version:
                everything = {OVERALL: np.ones(len(losses), bool)}
                for name, mask in (everything | slice_masks(inputs_of(rows), self.references.slices)).items():
                    _add(self.by_slice, name, losses[mask])

    def _champion(self, day: str, rows: pa.Table) -> None:
        drift = self.references.drift
        if drift is not None:
            watched = self.references.watched(inputs_of(rows), rows.column(OUTPUT + PREDICTION))
            found = Counts.of(drift.layout, watched, day).total()
            self.cells[day] = self.cells.get(day, np.zeros_like(found)) + found
        if self.estimate is not None and np.isfinite(expected := self.estimate.expected(rows)):
            _add(self.estimates, day, np.full(rows.num_rows, self.references.scale * expected))

    def _parts(self, table: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
        if not table.num_rows:
            return
        names = day_names(clock(self.config, table))
        versions = np.array(table.column("version").to_pylist(), dtype=object)
        for day, version in sorted({*zip(names.tolist(), versions.tolist(), strict=True)}):
            if day >= self.first:
                yield day, version, table.filter(pa.array((names == day) & (versions == version)))

    def days(self) -> list[VersionDay]:
        """In order of time; where two versions answered on one day, in the order in which they first did."""
        keys = {*self.predictions, *self.losses}
        begun = {version: min(day for day, other in keys if other == version) for _, version in keys}
        made = []
        for day, version in sorted(keys, key=lambda key: (key[0], begun[key[1]], key[1])):
            rows, _ = self.losses.get((day, version), (0, 0.0))
            estimate = _mean(self.estimates.get(day)) if version == self.version else None
            loss = _mean(self.losses.get((day, version)))
            made.append(VersionDay(day, version, self.predictions.get((day, version), 0), int(rows), loss, estimate))
        return made

    def slices(self) -> list[SliceLoss]:
        """Of the levels at registration; those without labelled rows are left out."""
        levels, scale = self.references.levels, self.references.scale
        known = {} if levels is None else {part.name: part for part in levels.slices}
        found = []
        for name, part in known.items():
            rows, total = self.by_slice.get(name, (0.0, 0.0))
            if rows:
                found.append(SliceLoss(name, int(rows), total / rows, scale * part.mean, scale * part.limit))
        return found

    def moved(self, features: list[str], since: str) -> list[Moved]:
        """What these features' rows look like since a day, beside the training rows."""
        drift = self.references.drift
        if drift is None:
            return []
        found = self._since(drift, since)
        return [_moved(drift, name, since, found) for name in features] if found.sum() else []

    def distances(self, since: str) -> tuple[list[Distance], int]:
        """Of the rows since a day from the training rows, by feature, and how many rows those are."""
        drift = self.references.drift
        if drift is None or not (found := self._since(drift, since)).sum():
            return [], 0
        before, layout = drift.cells.sum(axis=0), drift.layout
        sides = zip(layout.features, layout.offsets[:-1], layout.offsets[1:], strict=True)
        rows = [
            Distance(c.name, **distances(c, before[a:b].astype(float), found[a:b].astype(float))) for c, a, b in sides
        ]
        return rows, layout.rows(found)

    def _since(self, drift: Reference, since: str) -> NDArray[np.int64]:
        return sum((cells for day, cells in self.cells.items() if day >= since), np.zeros(drift.layout.size, np.int64))


def days_of(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """[since, until) in pieces that end with the days (UTC)."""
    while since < until:
        midnight = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        yield since, min(midnight, until)
        since = midnight


def _moved(drift: Reference, name: str, since: str, found: NDArray[np.int64]) -> Moved:
    at = [cells.name for cells in drift.layout.features].index(name)
    part = slice(int(drift.layout.offsets[at]), int(drift.layout.offsets[at + 1]))
    cells = drift.layout.features[at]
    before, after = (side[part] / max(side[part].sum(), 1) for side in (drift.cells.sum(axis=0), found))
    shares = tuple(map(CellShare, cells.labels, before.tolist(), after.tolist()))
    split = int(np.abs(after - before).argmax())
    shift = normal_shift(before, after) if isinstance(cells, NumericCells) else None
    change, label = 0.5 * float(np.abs(after - before).sum()), cells.labels[split]
    rows, sides = int(found[part].sum()), (float(before[split]), float(after[split]))
    return Moved(name, since, rows, 0.0, label, *sides, change, shift, shares)


def _add(sums: dict, key: object, values: NDArray[np.float64]) -> None:  # type: ignore[type-arg]
    rows, total = sums.get(key, (0.0, 0.0))
    sums[key] = rows + len(values), total + float(values.sum())


def _mean(pair: Pair | None) -> float | None:
    return None if pair is None or not pair[0] else pair[1] / pair[0]
