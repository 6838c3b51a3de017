"""From a source to a snapshot: one distributed pass over the data, a decision on the driver, one task per shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.config.loading import resolve_local
from raymlops.config.tree import Config
from raymlops.data.block import BlockPass
from raymlops.data.checks import (
    EXAMPLES,
    ContractViolated,
    Violation,
    new_categories,
    schema_violations,
    set_violations,
    threshold,
)
from raymlops.data.contract import Contract, infer
from raymlops.data.hashing import key_hashes, table_codes
from raymlops.data.identity import source_digest
from raymlops.data.profile import Profile
from raymlops.data.scan import Scan, agreed_kinds, scan
from raymlops.data.shards import ShardJob, write_shards
from raymlops.data.snapshot import FORMAT, BuiltSnapshot, Snapshot, describe_file, digest_of, directory, row_counts
from raymlops.data.sources import open_source
from raymlops.data.split import PARTS
from raymlops.errors import DataError
from raymlops.features.derive import Functions
from raymlops.features.state import FeatureState
from raymlops.store import Store, filesystem_of

NO_CONTRACT = "that every first snapshot must keep"


def build_snapshot(
    config: Config,
    base: Path,
    store: Store,
    run_id: str,
    now: datetime,
    functions: Mapping[str, Any],
    progress: Callable[[str], None] = lambda text: None,
    *,
    state: FeatureState | None = None,
    sha256: Mapping[str, str] | None = None,
) -> BuiltSnapshot:
    """Read the source once and store what training needs, or find that it is stored already.

    `functions` are the configuration's resolved import paths by key path. `state` is what the features were fitted to
    earlier and keep; they are fitted to the training part when it is None. `sha256` are hashes of local source files by
    path where they are known: lineage names them. Raises DataError for data that cannot be used, ContractViolated for
    data that breaks its contract, StoreError when a file cannot be written; none of them leaves anything behind under
    `snapshots/`.
    """
    staging, quarantine = f"staging/{run_id}", f"quarantine/{run_id}"
    derived = {name: functions[f"features.derived.{name}.function"] for name in config.features.derived}
    contract_store, contract_path = _contract_place(config, base, store)
    contract = _read_contract(contract_store, contract_path)
    where = contract_store.location(contract_path) if contract is not None else NO_CONTRACT
    try:
        source = open_source(config.data, base, functions, sha256)
        found = scan(source, BlockPass(config, derived, contract, store, staging, quarantine))
        _drop_repeated(store, quarantine, found)
        kinds = agreed_kinds(found)
        _check_columns(contract, kinds, found, config, where)
        inferred = contract is None
        if found.profile is not None and contract is None:
            contract = infer(_with_kinds(found.profile, kinds), config)
        _check_rows(contract, inferred, found, config, store, now, where)
        _check_parts(found, config)
        assert found.profile is not None and found.fit is not None and contract is not None
        profile = found.profile
        identity = _identity(config, found, kinds, derived)
        if state is None:
            state = found.fit.finish(config.features, config.task)
        else:
            identity["state"] = hashlib.sha256(state.to_json().encode()).hexdigest()
        digest = digest_of(identity)
        reused = store.exists(f"{directory(digest)}/manifest.json")
        if not reused:
            progress("encoding and writing shards")
            manifest = {
                "hash": digest,
                "identity": identity,
                "rows": row_counts(found.pieces),
                "excluded": found.excluded,
                "quarantined": found.quarantined,
                "columns": kinds,
                "time_range": {part: list(span) for part, span in found.times.items() if part != "all"},
                "source": source.description,
                "created": now.isoformat(),
                "directory": run_id,
            }
            job = ShardJob(config, derived, state, store, f"{directory(digest)}/{run_id}", kinds)
            reused = not _write(job, manifest, found, profile, contract)
        if inferred:
            contract_store.create(contract_path, contract.to_yaml().encode())
            progress(f"contract inferred: {contract_store.location(contract_path)}")
    finally:
        store.delete_tree(staging)
    new = new_categories(contract, profile)
    for name, values in new.items():
        progress(f"{name}: {len(values)} value(s) that the contract does not list: {', '.join(values[:5])}")
    if found.quarantined:
        progress(f"{found.quarantined} rows moved aside to {store.location(quarantine)}")
    return BuiltSnapshot(
        snapshot=Snapshot.open(store, digest),
        profile=profile,
        contract=contract,
        contract_inferred=inferred,
        reused=reused,
        source=source.description,
        excluded=found.excluded,
        quarantined=found.quarantined,
        quarantine_path=store.location(quarantine) if found.quarantined else None,
        new_categories=new,
    )


def current_contract(config: Config, base: Path, store: Store) -> Contract | None:
    """The contract that the next snapshot must keep; None before there is one. Raises ConfigError when it is none."""
    return _read_contract(*_contract_place(config, base, store))


def _contract_place(config: Config, base: Path, store: Store) -> tuple[Store, str]:
    path = config.data.contract.path
    if path is None:
        return store, f"contracts/{config.name}.yaml"
    folder, _, name = resolve_local(path, base).rpartition("/")
    return Store(folder or "/"), name


def _read_contract(store: Store, path: str) -> Contract | None:
    if not store.exists(path):
        return None
    return Contract.from_yaml(store.read(path).decode(errors="replace"), store.location(path))


def _drop_repeated(store: Store, quarantine: str, found: Scan) -> None:
    """Remove what a worker wrote to the quarantine before it died and its block was processed again."""
    for name in store.list(quarantine):
        if f"{quarantine}/{name}" not in found.quarantine_files:
            store.delete_file(f"{quarantine}/{name}")


def _with_kinds(profile: Profile, kinds: Mapping[str, str]) -> Profile:
    """Blocks in which a column was all missing know less about its kind than all blocks together."""
    for name, column in profile.columns.items():
        column.kind = kinds[name]
    return profile


def _check_columns(contract: Contract | None, kinds: dict[str, str], found: Scan, config: Config, where: str) -> None:
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


def _check_rows(
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


def _check_parts(found: Scan, config: Config) -> None:
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


def _identity(config: Config, found: Scan, kinds: dict[str, str], derived: Functions) -> dict[str, Any]:
    """Everything that the snapshot's files depend on."""
    return {
        "format": FORMAT,
        "content": found.content.hexdigest(),
        "kinds": kinds,
        "task": config.task,
        "target": config.data.target,
        "split": config.data.split.model_dump(mode="json"),
        "features": config.features.model_dump(mode="json"),
        "functions": {name: source_digest(function) for name, function in derived.items()},
        "shard_rows": config.data.shard_rows,
    }


def _write(job: ShardJob, manifest: dict[str, Any], found: Scan, profile: Profile, contract: Contract) -> bool:
    """Files first, the manifest that vouches for them last; False when another run's manifest came first.

    Every run writes to a directory of its own, so that of several runs with the same content one wins as a whole and
    the others take away nothing but what is theirs.
    """
    store, target = job.store, job.target
    profile_json, sketches = profile.to_bytes()
    small = {
        "features.json": job.state.to_json().encode(),
        "profile.json": profile_json,
        "profile.sketches": sketches,
        "contract.yaml": contract.to_yaml().encode(),
    }
    path = f"{directory(manifest['hash'])}/manifest.json"
    try:
        files = write_shards(job, found.pieces)
        for name, data in small.items():
            store.write(f"{target}/{name}", data)
            files[name] = describe_file(data, 0)
        manifest["files"] = dict(sorted(files.items()))
        # Keys stay in their order: the hash of the identity, which is the snapshot's name, depends on it.
        store.create(path, json.dumps(manifest, indent=1, default=str).encode())
    finally:
        # Read back, because an interrupt may come after the manifest was written.
        won = store.exists(path) and json.loads(store.read(path))["directory"] == manifest["directory"]
        if not won:
            store.delete_tree(target)
    return won
