"""From staged pieces to the files of a snapshot: one task per shard gathers, sorts, stores and encodes its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import save as save_arrays

from raymlops.config.tree import Config
from raymlops.data.block import ROW_ID, parquet_bytes
from raymlops.data.kinds import ARROW_TYPES
from raymlops.data.ray_errors import user_error
from raymlops.data.snapshot import describe_file, shard_count
from raymlops.errors import DataError
from raymlops.features.derive import Functions
from raymlops.features.state import FeatureState
from raymlops.features.transform import Transform
from raymlops.store import Store, filesystem_of

AHEAD = 2
"""Tasks per CPU that are under way or wait for one."""
ENDING_SECONDS = 60.0


@dataclass(frozen=True)
class ShardJob:
    """What every task of one snapshot needs."""

    config: Config
    functions: Functions
    state: FeatureState
    store: Store
    target: str
    """Directory of the snapshot."""
    kinds: Mapping[str, str]


def write_shards(job: ShardJob, pieces: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, dict[str, Any]]:
    """Write all shards; returns file names below the snapshot with rows, bytes and sha256.

    Raises StoreError when a file cannot be written and DataError when rows cannot be encoded, after every task ended.
    """
    import ray
    from ray.exceptions import RayError

    write = ray.remote(num_cpus=1, max_retries=2)(_write_shard)
    shared = ray.put(job)
    wanted = []
    for part, staged in pieces.items():
        count = shard_count(sum(rows for _, rows in staged), job.config.data.shard_rows)
        paths = sorted(path for path, _ in staged)
        wanted += [(part, index, count, paths) for index in range(count)]
    # Few at a time, and after a failure no more: to cancel a task that is just ending can abort the process that does.
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    tasks: list[Any] = []
    under_way: list[Any] = []
    try:
        for arguments in wanted:
            if len(under_way) == most:
                done, under_way = ray.wait(under_way)
                ray.get(done)
            tasks.append(write.remote(shared, *arguments))
            under_way.append(tasks[-1])
        described = ray.get(tasks)
    except BaseException as error:
        with contextlib.suppress(RayError):
            ray.wait(under_way, num_returns=len(under_way), timeout=ENDING_SECONDS)
        if isinstance(error, RayError):
            raise user_error(error, "snapshot: encoding failed") from error
        raise
    return {name: facts for files in described for name, facts in files.items()}


def _write_shard(job: ShardJob, part: str, index: int, count: int, pieces: list[str]) -> dict[str, dict[str, Any]]:
    """Shard `index` of `count` equal ranges of row ids: raw rows and arrays, both in the order of the ids."""
    low, high = index * 2**64 // count, (index + 1) * 2**64 // count - 1
    config = job.config
    table = pa.concat_tables([_piece(job, path, low, high) for path in pieces])
    order = np.argsort(table.column(ROW_ID).to_numpy(), kind="stable")
    table = table.drop_columns([ROW_ID]).take(pa.array(order)).combine_chunks()
    transform = Transform(config.features, job.state, config.task, job.functions)
    try:
        arrays = transform.batch(table)
        arrays["target"] = transform.targets(table.column(config.data.target))
    except DataError as error:
        raise DataError(f"{part} rows: {error}") from None
    files = {
        f"rows/{part}-{index:05d}.parquet": parquet_bytes(table),
        f"encoded/{part}-{index:05d}.safetensors": save_arrays(arrays),
    }
    for name, data in files.items():
        job.store.write(f"{job.target}/{name}", data)
    return {name: describe_file(data, table.num_rows) for name, data in files.items()}


def _piece(job: ShardJob, path: str, low: int, high: int) -> pa.Table:
    """Rows of a staged piece whose ids lie in [low, high], in the snapshot's column types."""
    filesystem, inner = filesystem_of(job.store.location(path))
    ids = pc.field(ROW_ID)
    wanted = (ids >= pa.scalar(low, pa.uint64())) & (ids <= pa.scalar(high, pa.uint64()))
    table = pq.read_table(inner, filesystem=filesystem, filters=wanted, partitioning=None)
    columns = {name: _cast(table.column(name), name, job.kinds[name]) for name in table.column_names if name != ROW_ID}
    return pa.table({**columns, ROW_ID: table.column(ROW_ID)})


def _cast(column: pa.ChunkedArray, name: str, kind: str) -> pa.ChunkedArray:
    if kind == "null":
        return pa.chunked_array([pa.nulls(len(column))])
    if pa.types.is_null(column.type) and kind == "tensor":
        raise DataError(f"column {name!r}: some files hold arrays, but in one every value is missing")
    wanted = ARROW_TYPES.get(kind, column.type)
    return column if column.type == wanted else column.cast(wanted, safe=False)
