"""From a source to a snapshot: one distributed pass over the data, a decision on the driver, one task per shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from raymlops.config.tree import Config
from raymlops.data.admission import check_columns, check_parts, check_rows
from raymlops.data.block import BlockPass
from raymlops.data.checks import new_categories
from raymlops.data.contract import Contract, infer
from raymlops.data.contract_file import contract_place, read_contract
from raymlops.data.identity import source_digest
from raymlops.data.profile import Profile
from raymlops.data.scan import Scan, agreed_kinds, scan
from raymlops.data.shards import ShardJob, write_shards
from raymlops.data.snapshot import FORMAT, BuiltSnapshot, Snapshot, describe_file, digest_of, directory, row_counts
from raymlops.data.sources import open_source
from raymlops.features.derive import Functions
from raymlops.features.state import FeatureState
from raymlops.store import Store

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
    contract_store, contract_path = contract_place(config, base, store)
    contract = read_contract(contract_store, contract_path)
    where = contract_store.location(contract_path) if contract is not None else NO_CONTRACT
    try:
        source = open_source(config.data, base, functions, sha256)
        found = scan(source, BlockPass(config, derived, contract, store, staging, quarantine))
        _drop_repeated(store, quarantine, found)
        kinds = agreed_kinds(found)
        check_columns(contract, kinds, found, config, where)
        inferred = contract is None
        if found.profile is not None and contract is None:
            contract = infer(_with_kinds(found.profile, kinds), config)
        check_rows(contract, inferred, found, config, store, now, where)
        check_parts(found, config)
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
