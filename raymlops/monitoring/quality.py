"""Quality of production data against the contract of the training data: counted by replicas, decided here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.data.checks import Violation, compatible, row_checks, threshold
from raymlops.data.contract import ColumnContract, Contract
from raymlops.data.kinds import kind_of

MAX_SHARE = 0.001
EXAMPLES = 5


@dataclass
class QualityCounts:
    """What is wrong with the rows of a window. Merges in any order."""

    rows: int = 0
    offending: dict[tuple[str, str], int] = field(default_factory=dict)
    """(column, check) to rows: absent, schema (another kind), null, missing, min, max, category, unseen."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Column to the first few unseen values."""
    newest: datetime | None = None

    @classmethod
    def of(cls, contract: Contract, table: pa.Table, columns: Sequence[str], newest: datetime | None) -> QualityCounts:
        """Checks a table's inputs, `columns`, against the contract of training data; `newest` is its latest time."""
        counts = cls(rows=table.num_rows, newest=newest)
        usable = []
        for name in columns:
            rule = contract.columns.get(name)
            if name not in table.column_names:
                counts._count(name, "absent", table.num_rows)
            elif rule is not None and not compatible(rule.kind, kind_of(table.column(name).type)):
                counts._count(name, "schema", table.num_rows - table.column(name).null_count)
            else:
                usable.append(name)
                counts._count(name, "null", _missing(table.column(name)))
        checked = table.select(usable)
        for (name, check), mask in row_checks(contract, checked, ()).items():
            counts._count(name, check, int(mask.sum()))
        for name in usable:
            counts._unseen(name, contract.columns.get(name), checked.column(name))
        return counts

    def _count(self, column: str, check: str, rows: int) -> None:
        if rows:
            self.offending[column, check] = self.offending.get((column, check), 0) + rows

    def _unseen(self, name: str, rule: ColumnContract | None, column: pa.ChunkedArray) -> None:
        """Values of an open list of categories that the training data had not; a closed list is a row check."""
        if rule is None or rule.categories is None or rule.closed or pa.types.is_null(column.type):
            return
        fresh = column.filter(pc.invert(pc.is_in(column, pa.array(rule.categories, column.type)))).drop_null()
        self._count(name, "unseen", len(fresh))
        if len(fresh):
            self.examples[name] = sorted(map(str, pc.unique(fresh).to_pylist()))[:EXAMPLES]

    def merge(self, other: QualityCounts) -> QualityCounts:
        self.rows += other.rows
        for (column, check), rows in other.offending.items():
            self._count(column, check, rows)
        for column, values in other.examples.items():
            self.examples[column] = sorted({*self.examples.get(column, ()), *values})[:EXAMPLES]
        times = [time for time in (self.newest, other.newest) if time is not None]
        self.newest = max(times, default=None)
        return self

    def to_dict(self) -> dict[str, Any]:
        offending = [[*at, rows] for at, rows in sorted(self.offending.items())]
        newest = self.newest.isoformat() if self.newest else None
        return {"rows": self.rows, "offending": offending, "examples": self.examples, "newest": newest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualityCounts:
        offending = {(column, check): rows for column, check, rows in data["offending"]}
        newest = datetime.fromisoformat(data["newest"]) if data["newest"] else None
        return cls(data["rows"], offending, dict(data["examples"]), newest)


@dataclass(frozen=True)
class QualityLimits:
    """What is not worth a word."""

    max_share: float = MAX_SHARE
    """Of rows that break a rule about single rows, or hold an unseen value."""
    max_age: timedelta | None = None
    """Of the newest row."""
    rows: tuple[int, int | None] | None = None
    """Least and most rows of a window; None for the second where there may be any number."""


def volume_limits(rows: Sequence[int]) -> tuple[int, int]:
    """Limits from the rows of reference windows: half of the least, twice the most."""
    return max(1, int(np.min(rows)) // 2), 2 * int(np.max(rows))


def quality_violations(
    counts: QualityCounts, contract: Contract, limits: QualityLimits, now: datetime
) -> list[Violation]:
    """What is wrong with a window, columns first. `now` and the counts' `newest` are aware times, or both are not.

    A column that is absent or of another kind is a violation in any row, other rules from `max_share` of the rows on.
    """
    found = []
    for (column, check), rows in sorted(counts.offending.items()):
        share, rule = rows / max(counts.rows, 1), contract.columns.get(column)
        allowed: float = 0.0 if check in ("absent", "schema") else limits.max_share
        if check == "null":
            allowed = 1.0 if rule is None or rule.max_null_fraction is None else rule.max_null_fraction
        if share > allowed:
            observed = f"{rows:,} of {counts.rows:,} rows ({share:.2%})"
            if check == "unseen":
                observed += f", such as {', '.join(counts.examples.get(column, ()))}"
            found.append(Violation(column, check, _rule(rule, check, allowed), observed))
    return found + volume_violations(counts.rows, counts.newest, limits, now)


def volume_violations(rows: int, newest: datetime | None, limits: QualityLimits, now: datetime) -> list[Violation]:
    """Whether a window has too few or too many rows, or its newest is too old."""
    found = []
    if limits.rows is not None:
        least, most = limits.rows
        if rows < least or (most is not None and rows > most):
            allowed = f"at least {least:,} rows" if most is None else f"{least:,} to {most:,} rows"
            found.append(Violation("(rows)", "volume", allowed, f"{rows:,} rows"))
    if limits.max_age is not None:
        allowed = f"newest row at most {limits.max_age} old"
        if newest is None:
            found.append(Violation("(rows)", "freshness", allowed, "no row"))
        elif now - newest > limits.max_age:
            observed = f"{now - newest} old (newest {newest.isoformat()})"
            found.append(Violation("(rows)", "freshness", allowed, observed))
    return found


def _rule(rule: ColumnContract | None, check: str, allowed: float) -> str:
    if check == "absent":
        return "the column"
    if check == "schema":
        return f"kind {rule.kind if rule else 'of the training data'}"
    if check == "null":
        return f"missing in at most {allowed:.4g} of rows"
    if check == "unseen":
        return f"values of the training data in all but {allowed:.4g} of rows"
    return f"{threshold(rule, check)} in all but {allowed:.4g} of rows"


def _missing(column: pa.ChunkedArray) -> int:
    """Null, NaN or infinite."""
    if pa.types.is_floating(column.type):
        return int((~np.isfinite(column.fill_null(np.nan).to_numpy())).sum())
    return int(column.null_count)
