"""From a source to a snapshot: one distributed pass over the data, a decision on the driver, one task per shard."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save as save_arrays

from raymlops.config.loading import resolve_local
from raymlops.config.tree import Config
from raymlops.data.block import ROW_ID, BlockPass, BlockResult, parquet_bytes
from raymlops.data.contract import (
    Contract,
    ContractViolated,
    Violation,
    infer,
    new_categories,
    schema_violations,
    set_violations,
    threshold,
)
from raymlops.data.hashing import ContentHash
from raymlops.data.profile import Profile, widest
from raymlops.data.ray_errors import user_error
from raymlops.data.snapshot import (
    FORMAT,
    BuiltSnapshot,
    Snapshot,
    describe_file,
    digest_of,
    directory,
    row_counts,
    shard_count,
)
from raymlops.data.sources import open_source
from raymlops.data.split import PARTS
from raymlops.errors import DataError
from raymlops.features.derive import Functions
from raymlops.features.fit import FitPartial
from raymlops.features.state import FeatureState
from raymlops.features.transform import Transform
from raymlops.store import Store

ARROW_TYPES = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us"),
    "null": pa.null(),
}


def build_snapshot(
    config: Config,
    base: Path,
    store: Store,
    run_id: str,
    now: datetime,
    functions: Mapping[str, Any],
    progress: Callable[[str], None] = lambda text: None,
) -> BuiltSnapshot:
    """Read the source once and store what training needs, or find that it is stored already.

    `functions` are the configuration's resolved import paths by key path. Raises DataError for data that cannot be
    used, ContractViolated for data that breaks its contract, StoreError when a file cannot be written; none of them
    leaves anything behind under `snapshots/`.
    """
    staging, quarantine = f"staging/{run_id}", f"quarantine/{run_id}"
    derived = {name: functions[f"features.derived.{name}.function"] for name in config.features.derived}
    contract_store, contract_path = _contract_place(config, base, store)
    contract = _read_contract(contract_store, contract_path)
    try:
        source = open_source(config.data, base, functions)
        block_pass = BlockPass(config, derived, contract, store, staging, quarantine)
        merged = _merge(_results(source.dataset, block_pass))
        kinds = _agreed_kinds(merged)
        if contract is not None:
            _check_contract(contract, merged, kinds, config, now, contract_store.location(contract_path))
        profile, state = _finish(merged, kinds, config)
        inferred = contract is None
        if contract is None:
            contract = infer(profile, config)
            _check_first(contract, merged)
            contract_store.create(contract_path, contract.to_yaml().encode())
        identity = {
            "format": FORMAT,
            "content": merged.content.hexdigest(),
            "kinds": kinds,
            "task": config.task,
            "target": config.data.target,
            "split": config.data.split.model_dump(mode="json"),
            "features": config.features.model_dump(mode="json"),
            "functions": {name: source_digest(function) for name, function in derived.items()},
            "shard_rows": config.data.shard_rows,
        }
        digest = digest_of(identity)
        reused = store.exists(f"{directory(digest)}/manifest.json")
        if not reused:
            manifest = {
                "hash": digest,
                "identity": identity,
                "rows": row_counts(merged.pieces),
                "excluded": merged.excluded,
                "quarantined": merged.quarantined,
                "columns": kinds,
                "time_range": merged.times,
                "source": source.description,
                "created": now.isoformat(),
            }
            progress("encoding and writing shards")
            _write(store, digest, manifest, merged, state, profile, contract, config, derived)
    finally:
        store.delete_tree(staging)
    return BuiltSnapshot(
        snapshot=Snapshot.open(store, digest),
        profile=profile,
        contract=contract,
        contract_inferred=inferred,
        reused=reused,
        quarantined=merged.quarantined,
        quarantine_path=store.location(quarantine) if merged.quarantined else None,
        new_categories=new_categories(contract, profile),
    )


@dataclass
class Merged:
    """All blocks together."""

    kinds: dict[str, dict[str, tuple[str, Any, int]]] = field(default_factory=dict)
    """Column to kind to (first file, example, blocks)."""
    content: ContentHash = field(default_factory=ContentHash)
    profile: Profile | None = None
    fit: FitPartial | None = None
    pieces: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    excluded: int = 0
    quarantined: int = 0
    violations: dict[tuple[str, str], tuple[int, list[Any]]] = field(default_factory=dict)
    times: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: list[np.ndarray] = field(default_factory=list)
    missing_labels: int = 0

    @property
    def rows(self) -> int:
        return self.content.rows

    @property
    def newest(self) -> datetime | None:
        return max((datetime.fromisoformat(high) for _, high in self.times.values()), default=None)

    def add(self, block: BlockResult) -> None:
        for name, (kind, path, example) in block.kinds.items():
            first, shown, blocks = self.kinds.setdefault(name, {}).get(kind, (path, example, 0))
            self.kinds[name][kind] = (first, shown, blocks + 1)
        self.content = self.content.merge(block.content)
        if block.profile is not None:
            self.profile = block.profile if self.profile is None else self.profile.merge(block.profile)
        if block.fit is not None:
            self.fit = block.fit if self.fit is None else self.fit.merge(block.fit)
        for part, piece in block.pieces.items():
            self.pieces.setdefault(part, []).append(piece)
        for key, (count, examples) in block.violations.items():
            known, shown_before = self.violations.get(key, (0, []))
            self.violations[key] = (known + count, (shown_before + examples)[:3])
        for part, (low, high) in block.times.items():
            known_low, known_high = self.times.get(part, (low, high))
            self.times[part] = (min(low, known_low), max(high, known_high))
        self.excluded += block.excluded
        self.quarantined += block.quarantined
        self.missing_labels += block.missing_labels
        if block.keys.size:
            self.keys.append(block.keys)


def _results(dataset: Any, block_pass: BlockPass) -> Iterator[BlockResult]:
    import ray.data
    from ray.exceptions import RayTaskError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    mapped = dataset.map_batches(block_pass, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    try:
        for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
            for packed in batch.column("result").to_pylist():
                yield BlockResult.unpack(packed)
    except RayTaskError as error:
        raise user_error(error, "data.source: reading failed") from error


def _merge(results: Iterator[BlockResult]) -> Merged:
    merged = Merged()
    for block in results:
        merged.add(block)
    if not merged.kinds:
        raise DataError("data.source: there are no rows")
    return merged


def _agreed_kinds(merged: Merged) -> dict[str, str]:
    """One kind per column. Raises DataError naming the files that disagree."""
    agreed = {}
    for name, found in merged.kinds.items():
        kind = "null"
        for other in found:
            kind = widest(kind, other)
        if kind == "mixed":
            ranked = sorted((item for item in found.items() if item[0] != "null"), key=lambda item: item[1][2])
            (odd, (path, example, _)), (usual, (usual_path, _, blocks)) = ranked[0], ranked[-1]
            where = f" in {path}" if path else ""
            shown = f" (such as {example!r})" if example is not None else ""
            others = f"in {usual_path}" if blocks == 1 and usual_path else f"in {blocks} other block(s)"
            raise DataError(f"data.source: column {name!r} is {odd}{where}{shown}, but {usual} {others}")
        agreed[name] = kind
    return dict(sorted(agreed.items()))


def _check_contract(
    contract: Contract, merged: Merged, kinds: dict[str, str], config: Config, now: datetime, where: str
) -> None:
    violations = schema_violations(contract, kinds)
    if not violations:
        settings = config.data.contract
        total = merged.rows + merged.quarantined
        share = merged.quarantined / total if total else 0.0
        if settings.action == "stop" or share > settings.max_quarantined:
            for (column, check), (count, examples) in sorted(merged.violations.items()):
                observed = f"{count} of {total} rows"
                violations.append(
                    Violation(column, check, threshold(contract, column, check), observed, tuple(examples))
                )
        if violations and settings.action == "quarantine":
            allowed = f"at most {settings.max_quarantined:.2%} of rows moved aside"
            violations.append(
                Violation("(rows)", "quarantine", allowed, f"{share:.2%} ({merged.quarantined} of {total})")
            )
        if merged.profile is not None:
            violations += set_violations(contract, merged.profile, merged.newest, now)
        violations += _duplicates(contract, merged)
    if violations:
        raise ContractViolated(violations, where)


def _check_first(contract: Contract, merged: Merged) -> None:
    """Promises that even the first data must keep: unique keys and present labels."""
    violations = _duplicates(contract, merged)
    if violations:
        raise ContractViolated(violations, "(data.contract.keys)")


def _duplicates(contract: Contract, merged: Merged) -> list[Violation]:
    if not contract.keys or not merged.keys:
        return []
    hashes = np.concatenate(merged.keys)
    repeated = len(hashes) - len(np.unique(hashes))
    if not repeated:
        return []
    observed = f"{repeated} of {len(hashes)} rows repeat a key"
    return [Violation(", ".join(contract.keys), "unique", "one row per key", observed)]


def _finish(merged: Merged, kinds: dict[str, str], config: Config) -> tuple[Profile, FeatureState]:
    if merged.rows == 0:
        extra = f" ({merged.excluded} rows lie outside the split's start and end)" if merged.excluded else ""
        raise DataError(f"data.source: there are no rows{extra}")
    if merged.missing_labels:
        count = f"{merged.missing_labels} of {merged.rows}"
        raise DataError(f"data.target: {count} rows have no {config.data.target!r}; remove them at the source")
    sizes = row_counts(merged.pieces)
    for part in PARTS:
        if not sizes[part]:
            shown = ", ".join(f"{count} {name}" for name, count in sizes.items())
            raise DataError(f"data.split: no rows fall into {part} ({shown}); move the split's marks")
    assert merged.profile is not None and merged.fit is not None
    for name, kind in kinds.items():
        if name in merged.profile.columns:
            merged.profile.columns[name].kind = kind
    return merged.profile, merged.fit.finish(config.features, config.task)


def _write(
    store: Store,
    digest: str,
    manifest: dict[str, Any],
    merged: Merged,
    state: FeatureState,
    profile: Profile,
    contract: Contract,
    config: Config,
    derived: Functions,
) -> None:
    import ray

    target = directory(digest)
    profile_json, sketches = profile.to_bytes()
    files: dict[str, dict[str, Any]] = {}
    small = {
        "features.json": state.to_json().encode(),
        "profile.json": profile_json,
        "profile.sketches": sketches,
        "contract.yaml": contract.to_yaml().encode(),
    }
    job = ShardJob(config, derived, state, store, target, manifest["columns"])
    write = ray.remote(num_cpus=1, max_retries=2)(_write_shard)
    shared = ray.put(job)
    tasks = []
    try:
        for part, rows in manifest["rows"].items():
            pieces = [path for path, _ in merged.pieces[part]]
            count = shard_count(rows, config.data.shard_rows)
            tasks += [write.remote(shared, part, index, count, pieces) for index in range(count)]
        for name, data in small.items():
            store.write(f"{target}/{name}", data)
            files[name] = describe_file(data, 0)
        for described in ray.get(tasks):
            files |= described
        manifest["files"] = dict(sorted(files.items()))
        store.create(f"{target}/manifest.json", json.dumps(manifest, indent=1, sort_keys=True, default=str).encode())
    except BaseException as error:
        # Somebody else may be writing the same content; only remove what has no manifest.
        if not store.exists(f"{target}/manifest.json"):
            store.delete_tree(target)
        if isinstance(error, ray.exceptions.RayTaskError):
            raise user_error(error, "snapshot: encoding failed") from error
        raise


@dataclass(frozen=True)
class ShardJob:
    config: Config
    derived: Functions
    state: FeatureState
    store: Store
    target: str
    kinds: dict[str, str]


def _write_shard(job: ShardJob, part: str, index: int, count: int, pieces: list[str]) -> dict[str, dict[str, Any]]:
    """Gather the rows whose ids fall into this shard, sort, store raw and encoded; returns name to description."""
    low, high = index * 2**64 // count, (index + 1) * 2**64 // count
    tables = [_piece(job, path, low, high) for path in sorted(pieces)]
    table = pa.concat_tables(tables)
    ids = table.column(ROW_ID).to_numpy()
    table = table.drop_columns([ROW_ID]).take(pa.array(np.argsort(ids, kind="stable")))
    config = job.config
    transform = Transform(config.features, job.state, config.task, job.derived)
    arrays = transform.batch(table)
    try:
        arrays["target"] = transform.targets(table.column(config.data.target))
    except DataError as error:
        raise DataError(f"{part}: {error}") from None
    files = {
        f"rows/{part}-{index:05d}.parquet": parquet_bytes(table),
        f"encoded/{part}-{index:05d}.safetensors": save_arrays(arrays),
    }
    for name, data in files.items():
        job.store.write(f"{job.target}/{name}", data)
    return {name: describe_file(data, table.num_rows) for name, data in files.items()}


def _piece(job: ShardJob, path: str, low: int, high: int) -> pa.Table:
    table = pq.read_table(io.BytesIO(job.store.read(path)))
    ids = table.column(ROW_ID).to_numpy()  # sorted when the piece was written
    start = int(np.searchsorted(ids, np.uint64(low)))
    stop = len(ids) if high >= 2**64 else int(np.searchsorted(ids, np.uint64(high)))
    table = table.slice(start, stop - start)
    columns = {name: _cast(table.column(name), job.kinds[name]) for name in table.column_names if name != ROW_ID}
    return pa.table({**columns, ROW_ID: table.column(ROW_ID)})


def _cast(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    wanted = ARROW_TYPES.get(kind)
    return column if wanted is None or column.type == wanted else column.cast(wanted, safe=False)


def _contract_place(config: Config, base: Path, store: Store) -> tuple[Store, str]:
    path = config.data.contract.path
    if path is None:
        return store, f"contracts/{config.name}.yaml"
    resolved = resolve_local(path, base)
    folder, _, name = resolved.rpartition("/")
    return Store(folder), name


def _read_contract(store: Store, path: str) -> Contract | None:
    if not store.exists(path):
        return None
    return Contract.from_yaml(store.read(path).decode(), store.location(path))


def source_digest(function: Callable[..., Any]) -> str:
    """Hash of a function's code that ignores comments, blank lines and formatting."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.getmodule(function) or function)))
    except (OSError, TypeError, SyntaxError):
        return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', repr(type(function)))}"
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
