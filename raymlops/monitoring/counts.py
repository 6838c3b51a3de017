"""Counts of rows by cell, window and stratum of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.monitoring.cells import Layout
from raymlops.monitoring.tally import Tally

Strata: TypeAlias = Literal["none", "hour", "weekday"]
STRATA: Mapping[str, int] = {"none": 1, "hour": 24, "weekday": 7}
_HOUR_US, _DAYS_TO_MONDAY = 3_600_000_000, 3
"""1970-01-01 was a Thursday."""


class Counts(Tally):
    """int64 (cells,) by (window, stratum): constant memory however many rows were counted."""

    def __init__(self, layout: Layout, values: Mapping[tuple[str, int], NDArray[np.int64]] | None = None) -> None:
        super().__init__(layout.digest, dict(values or {}))
        self.layout = layout

    @classmethod
    def of(cls, layout: Layout, rows: Any, window: str, stratum: int = 0) -> Self:
        """All of a table (or frame, or list of rows) in one window and stratum. Raises DataError when a numeric column
        holds text."""
        return cls(layout, {(window, stratum): layout.count(Rows.of(rows))[0]})

    @classmethod
    def by_day(cls, layout: Layout, rows: Any, times: NDArray[np.datetime64], strata: Strata = "none") -> Self:
        """Rows in windows of one UTC day by their `times`, datetime64 (n,). Raises DataError for a missing time."""
        known = Rows.of(rows)
        stamps = np.asarray(times, "datetime64[us]")
        if len(stamps) != known.length or np.isnat(stamps).any():
            raise DataError(f"times: expected a time for each of {known.length} rows, found {len(stamps)} or a gap")
        hours = stamps.astype(np.int64) // _HOUR_US
        days = hours // 24
        part = {"none": 0 * hours, "hour": hours % 24, "weekday": (days + _DAYS_TO_MONDAY) % 7}[strata]
        keys, groups = _groups(days * 32 + part)
        counted = layout.count(known, groups, len(keys))
        names = [(str(np.datetime64(int(key // 32), "D")), int(key % 32)) for key in keys]
        return cls(layout, dict(zip(names, counted, strict=True)))

    def placed(self, layout: Layout) -> Counts:
        """The same counts as a part of a layout that has these features side by side, and others that were not counted
        here."""
        names = [cells.name for cells in layout.features]
        begin = int(layout.offsets[names.index(self.layout.features[0].name)])
        made = {at: np.zeros(layout.size, np.int64) for at in self.values}
        for at, cells in self.values.items():
            made[at][begin : begin + self.layout.size] = cells
        return Counts(layout, made)

    def total(self) -> NDArray[np.int64]:
        """Counts of all windows together, (cells,)."""
        return np.asarray(sum(self.values.values(), np.zeros(self.layout.size, np.int64)))

    @property
    def rows(self) -> int:
        return self.layout.rows(self.total())

    @classmethod
    def from_dict(cls, layout: Layout, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises DataError when the counts are of other cells."""
        made = cls(layout)
        made.check(data["digest"])
        made.values = {(window, s): np.array(cells, np.int64) for window, s, cells in data["values"]}
        return made


def _groups(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct keys and the number of each row's among them. Rows mostly come in order of time, so the distinct keys
    are looked for among the starts of runs: a sort of all rows would take as long as the counting."""
    if not len(keys):
        return keys, keys
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    distinct, of_run = np.unique(keys[starts], return_inverse=True)
    return distinct, np.repeat(of_run, np.diff(np.append(starts, len(keys))))
