"""Data against its contract: checks on single rows, whose offenders can be moved aside, and on the data as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.data.contract import ColumnContract, Contract
from raymlops.data.kinds import widest
from raymlops.data.profile import Profile
from raymlops.errors import Refused

EXAMPLES = 3


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    column: str
    check: str
    threshold: str
    observed: str
    examples: tuple[Mapping[str, Any], ...] = ()
    """Rows that break it: their keys, time and the column itself."""

    def __str__(self) -> str:
        text = f"{self.column}: {self.check}: allowed {self.threshold}, observed {self.observed}"
        if self.examples:
            text += "; for example " + ", ".join(json.dumps(e, ensure_ascii=False, default=str) for e in self.examples)
        return text


class ContractViolated(Refused):
    """The data breaks its contract; nothing was stored or trained."""

    def __init__(self, violations: Sequence[Violation], where: str, note: str = "") -> None:
        self.violations = list(violations)
        lines = "\n".join(f"  {violation}" for violation in violations)
        super().__init__(f"the data breaks the contract {where}:\n{lines}{note}")


def row_checks(
    contract: Contract | None, table: pa.Table, always_present: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """(column, check) to a boolean mask (n,) of offending rows, only for checks that some row fails.

    Columns that are absent or of another kind are the business of `schema_violations`.
    """
    masks: dict[tuple[str, str], np.ndarray] = {}
    for name in table.column_names:
        rule = contract.columns.get(name) if contract is not None else None
        column = table.column(name)
        missing = _missing(column)
        if name in always_present or (rule is not None and not rule.nullable):
            masks[name, "missing"] = missing
        if rule is None:
            continue
        if rule.min is not None or rule.max is not None:
            with np.errstate(invalid="ignore"):
                numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
                if rule.min is not None:
                    masks[name, "min"] = (numbers < rule.min) & ~missing
                if rule.max is not None:
                    masks[name, "max"] = (numbers > rule.max) & ~missing
        if rule.closed and not pa.types.is_null(column.type):
            known = pc.is_in(column, pa.array(rule.categories, column.type)).to_numpy()
            masks[name, "category"] = ~known & ~missing
    return {key: mask for key, mask in masks.items() if mask.any()}


def _missing(column: pa.ChunkedArray) -> np.ndarray:
    """Null, NaN or infinite, bool (n,)."""
    if pa.types.is_floating(column.type):
        return np.asarray(~np.isfinite(column.fill_null(np.nan).to_numpy()))
    return np.asarray(column.is_null().to_numpy())


def threshold(rule: ColumnContract | None, check: str) -> str:
    """What a row check allows, in words."""
    if check == "min" and rule is not None:
        return f">= {rule.min:g}"
    if check == "max" and rule is not None:
        return f"<= {rule.max:g}"
    if check == "category" and rule is not None:
        known = rule.categories or []
        return f"one of {', '.join(known[:10])}" + (", …" if len(known) > 10 else "")
    return "no missing values"


def compatible(expected: str, found: str) -> bool:
    """Whether a column of kind `found` can be looked at by rules for `expected`; whole numbers may come as floats."""
    return found == "null" or {expected, found} == {"integer", "number"} or widest(expected, found) == expected


def schema_violations(contract: Contract, kinds: Mapping[str, str]) -> list[Violation]:
    """Absent columns and changed kinds. Extra columns are allowed."""
    found = []
    for name, rule in contract.columns.items():
        if name not in kinds:
            if rule.required:
                found.append(Violation(name, "schema", f"a column of kind {rule.kind}", "no such column"))
        elif not compatible(rule.kind, kinds[name]):
            found.append(Violation(name, "schema", f"kind {rule.kind}", f"kind {kinds[name]}"))
    found += [Violation(key, "schema", "a key column", "no such column") for key in contract.keys if key not in kinds]
    return found


def set_violations(contract: Contract, profile: Profile, newest: datetime | None, now: datetime) -> list[Violation]:
    """Checks on all rows together: fractions in whole numbers, null fractions, volume and freshness.

    `newest` is the largest value of the time column (UTC, without zone).
    """
    found = []
    for name, rule in contract.columns.items():
        column = profile.columns.get(name)
        if column is None or not column.rows:
            continue
        if rule.kind == "integer" and column.fractions:
            observed = f"{column.fractions} of {column.known} values with fractions"
            found.append(Violation(name, "schema", "whole numbers (kind integer)", observed))
        share = column.nulls / column.rows
        if rule.max_null_fraction is not None and share > rule.max_null_fraction:
            observed = f"{share:.4g} ({column.nulls} of {column.rows} rows)"
            found.append(Violation(name, "null fraction", f"<= {rule.max_null_fraction:g}", observed))
    if profile.rows < contract.min_rows:
        found.append(Violation("(rows)", "volume", f">= {contract.min_rows} rows", f"{profile.rows} rows"))
    if contract.max_rows is not None and profile.rows > contract.max_rows:
        found.append(Violation("(rows)", "volume", f"<= {contract.max_rows} rows", f"{profile.rows} rows"))
    if contract.max_age is not None:
        allowed = f"newest row at most {contract.max_age} old"
        name = contract.time_column or "(time)"
        if newest is None:
            found.append(Violation(name, "freshness", allowed, "no row has a time"))
        elif (age := now.astimezone(UTC).replace(tzinfo=None) - newest) > contract.max_age:
            found.append(Violation(name, "freshness", allowed, f"{age} old (newest {newest.isoformat()})"))
    return found


def new_categories(contract: Contract, profile: Profile) -> dict[str, list[str]]:
    """Values of open category columns that the contract does not list: reported, not refused."""
    found = {}
    for name, rule in contract.columns.items():
        if rule.categories is None or rule.closed or name not in profile.columns:
            continue
        seen = {value for value, _ in profile.columns[name].counted_values()}
        if fresh := sorted(seen - set(rule.categories)):
            found[name] = fresh
    return found
