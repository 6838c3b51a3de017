"""Which cells to count in: chosen once, from a profile or from reference rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.data.kinds import kind_of
from raymlops.data.profile import Profile
from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.monitoring.cells import CategoryCells, Cells, Layout, NumericCells

_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEVELS = ((0.01, 0.05, *_TENTHS, 0.95, 0.99), (0.05, 0.25, 0.5, 0.75, 0.95), (0.1, 0.5, 0.9))
"""Quantiles to cut at: the finest whose splits fit into `MAX_SPLITS`."""
MAX_SPLITS = 400
"""Bounds the state of a model's monitor: 20 columns at the finest levels have at most 320 splits."""


def layout_of_profile(profile: Profile, columns: Sequence[str] | None = None) -> Layout:
    """Cells from a snapshot's profile: numbers are cut at sketched quantiles, text and booleans by frequent values.

    Other kinds (times, tensors, columns without values) are left out. Raises DataError when nothing is left or there
    are more columns than fit, naming what to do.
    """
    chosen = _chosen(profile.columns, columns)
    usable = {name: column for name, column in chosen.items() if column.known}
    numeric = {name: column for name, column in usable.items() if column.kind in ("integer", "number")}
    texts = [name for name, column in usable.items() if column.kind in ("string", "boolean")]

    def quantiles(name: str, levels: Sequence[float]) -> Iterable[float]:
        values: Iterable[float] = numeric[name].kll.get_quantiles(list(levels))
        return values

    def extremes(name: str) -> tuple[float, float]:
        low, high = numeric[name].minimum, numeric[name].maximum
        assert isinstance(low, float) and isinstance(high, float)
        return low, high

    def frequent(name: str) -> list[str]:
        return [value for value, _ in usable[name].counted_values()]

    return _layout([*numeric, *texts], quantiles, extremes, frequent, set(numeric))


def layout_of_rows(table: pa.Table, columns: Sequence[str] | None = None, more: pa.Table | None = None) -> Layout:
    """Cells from reference rows in memory, with exact quantiles and counts; otherwise as `layout_of_profile`.

    Columns of `more`, which has rows of its own, come after those of the table."""
    found = {name: table.column(name) for name in table.column_names}
    chosen = _chosen(found, columns) | ({} if more is None else {name: more.column(name) for name in more.column_names})
    kinds = {name: kind_of(column.type) for name, column in chosen.items() if column.null_count < len(column)}
    rows = {name: Rows({name: chosen[name]}, len(chosen[name])) for name in kinds}
    known: dict[str, np.ndarray] = {}
    for name in [name for name, kind in kinds.items() if kind in ("integer", "number")]:
        values = rows[name].numbers(name)
        known[name] = np.sort(values[~np.isnan(values)])
    usable = [n for n, kind in kinds.items() if kind in ("string", "boolean") or (n in known and known[n].size)]

    def quantiles(name: str, levels: Sequence[float]) -> Iterable[float]:
        values: list[float] = np.quantile(known[name], levels, method="inverted_cdf").tolist()
        return values

    def extremes(name: str) -> tuple[float, float]:
        return float(known[name][0]), float(known[name][-1])

    def frequent(name: str) -> list[str]:
        counted = Counter(value for value in rows[name].texts(name).tolist() if value is not None)
        return [value for value, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]

    return _layout(usable, quantiles, extremes, frequent, set(known))


def _chosen(present: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    absent = [name for name in columns or () if name not in present]
    if absent:
        raise DataError(f"monitored columns: {absent} are not in the reference, which has {sorted(present)[:20]}")
    return present if columns is None else {name: present[name] for name in columns}


def _layout(
    names: Sequence[str],
    quantiles: Callable[[str, Sequence[float]], Iterable[float]],
    extremes: Callable[[str], tuple[float, float]],
    frequent: Callable[[str], list[str]],
    numeric: set[str],
) -> Layout:
    if not names:
        raise DataError("monitored columns: the reference has no column of numbers, text or booleans with values")
    for levels in LEVELS:
        features: list[Cells] = []
        for name in names:
            if name in numeric:
                low, high = extremes(name)
                edges = {float(np.nextafter(low, -np.inf)), *map(float, quantiles(name, levels)), high}
                features.append(NumericCells(name, tuple(sorted(edges))))
            else:
                features.append(CategoryCells(name, tuple(frequent(name)[: len(levels)])))
        layout = Layout(tuple(features))
        if len(layout.splits) <= MAX_SPLITS:
            return layout
    most = MAX_SPLITS // (len(LEVELS[-1]) + 3)
    raise DataError(f"monitored columns: found {len(names)}, about {most} fit; name those that matter most")
