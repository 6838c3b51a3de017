"""Contracts of tables, and how tables break them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from snapshot_cases import config, trips

from raymlops.data.checks import row_checks, schema_violations, set_violations
from raymlops.data.contract import Contract, infer
from raymlops.data.hashing import table_codes
from raymlops.data.kinds import kind_of, normalise
from raymlops.data.profile import Profile


def profiled(table: pa.Table) -> tuple[pa.Table, Profile]:
    table = normalise(table, ["at"], {})
    return table, Profile.of(table, table_codes(table))


def kinds_of(table: pa.Table) -> dict[str, str]:
    return {name: kind_of(table.column(name).type) for name in table.column_names}


def violations(contract: Contract, table: pa.Table, now: datetime = datetime(2024, 1, 6, tzinfo=UTC)) -> list[str]:
    """Every violation of a table, in the words that a user reads, without examples."""
    table, profile = profiled(table)
    newest = (
        max((t for t in table.column("at").to_pylist() if t is not None), default=None)
        if "at" in kinds_of(table)
        else None
    )
    found = [str(v) for v in schema_violations(contract, kinds_of(table))]
    if not found:
        found = [f"{column}: {check}: {int(m.sum())}" for (column, check), m in row_checks(contract, table, []).items()]
        found += [str(v) for v in set_violations(contract, profile, newest, now)]
    return found


def inferred(table: pa.Table | None = None, **changes: Any) -> Contract:
    return infer(profiled(trips() if table is None else table)[1], config(**changes))
