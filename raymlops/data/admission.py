"""Whether what was read may become a snapshot: its columns, its rows and the parts of its split."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.config.tree import Config
from raymlops.data.checks import EXAMPLES, ContractViolated, Violation, schema_violations, set_violations, threshold
from raymlops.data.contract import Contract
from raymlops.data.hashing import key_hashes, table_codes
from raymlops.data.scan import Scan
from raymlops.data.snapshot import row_counts
from raymlops.data.split import PARTS
from raymlops.errors import DataError
from raymlops.store import Store, filesystem_of


def check_columns(contract: Contract | None, kinds: Mapping[str, str], found: Scan, config: Config, where: str) -> None:
    """Raises DataError when there is nothing to read or the configuration names a column that is not there,
    ContractViolated when a column is not what the contract, named by `where`, says."""
    if not found.rows_read:
        raise DataError("data.source: there are no rows")
    violations = schema_violations(contract, kinds) if contract is not None else []
    if violations:
        raise ContractViolated(violations, where)
    missing = [name for name in config.used_columns() if name not in kinds]
    if missing:
        what = "the label column" if config.data.target in missing else "which the configuration uses"
        name = config.data.target if config.data.target in missing else missing[0]
        raise DataError(f"data: there is no column {name!r}, {what}; found {', '.join(kinds)}")
    if found.error is not None:
        raise DataError(f"data.source: {found.error}")


def check_rows(
    contract: Contract | None, first: bool, found: Scan, config: Config, store: Store, now: datetime, where: str
) -> None:
    """Raises ContractViolated unless every broken row check is quarantined within the limit and all else holds."""
    settings = config.data.contract
    total = found.rows_read - found.excluded
    violations = []
    share = found.quarantined / total if total else 0.0
    too_many = share > settings.max_quarantined
    if settings.action == "stop" or too_many:
        for (column, check), (count, examples) in sorted(found.violations.items()):
            rule = contract.columns.get(column) if contract is not None and not first else None
            observed = f"{count} of {total} rows"
            violations.append(Violation(column, check, threshold(rule, check), observed, tuple(examples)))
    if too_many:
        allowed = f"at most {settings.max_quarantined:.2%} of rows moved aside (data.contract.max_quarantined)"
        violations.append(Violation("(rows)", "quarantine", allowed, f"{share:.2%} ({found.quarantined} of {total})"))
    if contract is not None:
        if found.profile is not None:
            violations += set_violations(contract, found.profile, found.newest, now)
        violations += _duplicates(contract, found, store)
    if violations:
        aside = (
            f"\nthe rows moved aside are in {store.location(next(iter(found.quarantine_files)).rpartition('/')[0])}"
            if found.quarantined
            else ""
        )
        raise ContractViolated(violations, where, aside)


def _duplicates(contract: Contract, found: Scan, store: Store) -> list[Violation]:
    if not contract.keys or not found.keys:
        return []
    ordered = np.sort(np.concatenate(found.keys))
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not repeated.size:
        return []
    observed = f"{repeated.size} of {ordered.size} rows repeat the key of another"
    examples = _rows_with_key(contract.keys, repeated[:EXAMPLES], found, store)
    return [Violation(", ".join(contract.keys), "unique", "one row per key", observed, examples)]


def _rows_with_key(keys: list[str], hashes: np.ndarray, found: Scan, store: Store) -> tuple[dict[str, Any], ...]:
    """The keys behind the given hashes, looked up in the staged rows."""
    shown: dict[int, dict[str, Any]] = {}
    for path in (path for pieces in found.pieces.values() for path, _ in pieces):
        filesystem, inner = filesystem_of(store.location(path))
        rows: pa.Table = pq.read_table(inner, filesystem=filesystem, columns=keys, partitioning=None)
        of_rows = key_hashes(table_codes(rows), keys)
        for index in np.flatnonzero(np.isin(of_rows, hashes)).tolist():
            shown.setdefault(int(of_rows[index]), rows.slice(index, 1).to_pylist()[0])
        if len(shown) == len(set(hashes.tolist())):
            break
    return tuple(shown.values())


def check_parts(found: Scan, config: Config) -> None:
    """Raises DataError when a part of the split has no rows."""
    if not found.rows and found.quarantined:
        raise DataError(f"data.source: all {found.quarantined} rows were moved aside")
    sizes = row_counts(found.pieces)
    empty = [part for part in PARTS if not sizes[part]]
    if not empty:
        return
    counts = ", ".join(f"{count} {part}" for part, count in {**sizes, "outside start and end": found.excluded}.items())
    low, high = found.times.get("all", ("", ""))
    span = f"; {config.time_column} runs from {low} to {high}" if low and config.data.split.by == "time" else ""
    remedy = "move the split's marks" if config.data.split.by == "time" else "there are too few keys for these shares"
    raise DataError(f"data.split: no rows fall into {' and '.join(empty)} ({counts}){span}; {remedy}")
