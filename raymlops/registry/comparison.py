"""Two runs side by side: what differs in configuration, data, environment and results. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = None
"""Of a key that one side lacks."""
SHOWN_QUANTILES = ("0.05", "0.5", "0.95")


@dataclass(frozen=True)
class Row:
    """One value of both runs. None stands for "does not have it"."""

    key: str
    left: Any
    right: Any

    @property
    def same(self) -> bool:
        return bool(self.left == self.right)

    def to_dict(self) -> dict[str, Any]:
        return {"key": self.key, "left": self.left, "right": self.right}


def side_by_side(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """Keys in the order of the left side, those that only the right side has after them."""
    return [Row(key, left.get(key, NOTHING), right.get(key, NOTHING)) for key in {**left, **right}]


def differences(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.same]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `a.b.c` → value. Lists are values; an empty mapping is one, too."""
    if not isinstance(value, Mapping) or (not value and prefix):
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def profile_rows(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """Two profiles, statistic by statistic: `COLUMN STATISTIC`, and `rows`."""
    rows = [Row("rows", left["rows"], right["rows"])]
    ours, theirs = left["columns"], right["columns"]
    for column in {**ours, **theirs}:
        one, other = ours.get(column), theirs.get(column)
        if one is None or other is None:
            rows.append(Row(column, _kind(one), _kind(other)))
            continue
        stats = side_by_side(_statistics(one), _statistics(other))
        rows += [Row(f"{column} {row.key}", row.left, row.right) for row in stats]
        rows += [Row(f"{column} {row.key}", row.left, row.right) for row in _values(one, other)]
    return rows


def _kind(column: Mapping[str, Any] | None) -> str | None:
    return None if column is None else str(column["kind"])


def _statistics(column: Mapping[str, Any]) -> dict[str, Any]:
    rows = column["rows"]
    found = {
        "kind": column["kind"],
        "missing": column["nulls"] / rows if rows else None,
        "distinct": column["distinct"],
        "min": column["min"],
        "mean": column["mean"],
        "max": column["max"],
    }
    quantiles = column.get("quantiles") or {}
    found |= {f"q{q}": quantiles[q] for q in SHOWN_QUANTILES if q in quantiles}
    return {name: value for name, value in found.items() if value is not None}


def _values(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """Categories that only one side has, where the profile lists all of them, and otherwise among its most frequent."""
    if left["kind"] != "string" or right["kind"] != "string":
        return []
    ours, theirs = ([str(value) for value, _ in side.get("top", [])] for side in (left, right))
    complete = all(side["distinct"] <= len(side.get("top", [])) for side in (left, right))
    what = "values" if complete else "frequent values"
    gone, new = [v for v in ours if v not in theirs], [v for v in theirs if v not in ours]
    return [Row(f"{what} only here", gone, new)] if gone or new else []
