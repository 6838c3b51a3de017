"""Where rows come from: parquet, CSV, Delta Lake, SQL or a function, as one Ray Dataset that has not been read yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.config.data import CsvSource, DataConfig, DeltaSource, FunctionSource, ParquetSource, SqlSource
from raymlops.config.loading import resolve_local
from raymlops.data.files import list_files, open_files
from raymlops.errors import DataError

if TYPE_CHECKING:
    import ray.data
    from deltalake import DeltaTable

MAX_FILES_DESCRIBED = 1000
TASK_BYTES = 64 * 2**20
"""Rows that a function has put into memory in small pieces are handed out in portions of this size."""


@dataclass(frozen=True)
class OpenedSource:
    """`description` says what was opened, for lineage: kind, uri, version, files with sizes."""

    dataset: ray.data.Dataset
    description: dict[str, Any]
    portion: int | None = None
    """Rows to process at a time; a block at a time when None."""


def open_source(
    data: DataConfig, base: Path, functions: Mapping[str, Any], sha256: Mapping[str, str] | None = None
) -> OpenedSource:
    """Find out what there is to read.

    `functions` are resolved import paths by key path, `sha256` hashes of local files by path where they are known: they
    become part of the description. Raises DataError when the source does not exist, has no rows, or its files
    contradict each other.
    """
    source = data.source
    if isinstance(source, ParquetSource | CsvSource):
        return _open_files(source, data.columns, base, sha256 or {})
    if isinstance(source, DeltaSource):
        return _open_delta(source, data.columns, base)
    if isinstance(source, SqlSource):
        return _open_sql(source, functions["data.source.connection"])
    return _open_function(source, functions["data.source.function"])


def _open_files(
    source: ParquetSource | CsvSource, columns: list[str] | None, base: Path, sha256: Mapping[str, str]
) -> OpenedSource:
    paths = [source.path] if isinstance(source.path, str) else source.path
    listed = [file for path in paths for file in list_files(resolve_local(path, base), source.kind)]
    files = list({file.uri: file for file in listed}.values())
    if not files:
        raise DataError(f"data.source.path: no {source.kind} files under {', '.join(paths)}")
    description = {
        "kind": source.kind,
        "uri": paths[0] if len(paths) == 1 else paths,
        "file_count": len(files),
        "bytes": sum(file.bytes for file in files),
        "files": [file.describe(sha256.get(file.uri)) for file in files[:MAX_FILES_DESCRIBED]],
    }
    return OpenedSource(open_files(source, files, columns), description)


def open_table(source: DeltaSource, base: Path) -> DeltaTable:
    """The table as it was when the configuration wants it. Raises DataError when there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    uri = resolve_local(source.path, base)
    wanted = "the table"
    if source.version is not None:
        wanted = f"version {source.version}"
    elif source.timestamp is not None:
        wanted = f"the state of {source.timestamp.isoformat()}"
    if "://" not in uri and not Path(uri).exists():
        raise DataError(f"data.source.path: {uri} does not exist")
    try:
        table = DeltaTable(uri, version=source.version)
        if source.timestamp is not None:
            table.load_as_version(source.timestamp)
        return table
    except TableNotFoundError:
        raise DataError(f"data.source.path: no Delta Lake table at {uri}") from None
    except (DeltaError, OSError, ValueError) as error:
        raise DataError(f"data.source: cannot open {wanted} of {uri}: {error}") from error


def _open_delta(source: DeltaSource, columns: list[str] | None, base: Path) -> OpenedSource:
    import ray.data

    uri = resolve_local(source.path, base)
    table = open_table(source, base)
    version, files = table.version(), table.file_uris()
    if not files:
        raise DataError(f"data.source: version {version} of {uri} has no rows")
    missing = [name for name in columns or [] if name not in {field.name for field in table.schema().fields}]
    if missing:
        raise DataError(f"data.columns: version {version} of {uri} has no column {missing[0]!r}")
    description = {
        "kind": "delta",
        "uri": source.path,
        "version": version,
        "table_id": str(table.metadata().id),
        "file_count": len(files),
    }
    return OpenedSource(ray.data.read_delta(uri, version=version, columns=columns), description)


def _open_sql(source: SqlSource, connect: Any) -> OpenedSource:
    import ray.data

    try:
        connect().close()
    except Exception as error:  # whatever the driver of some database raises
        raise DataError(
            f"data.source.connection: {source.connection} raised {type(error).__name__}: {error}"
        ) from error
    description = {"kind": "sql", "query": " ".join(source.query.split()), "connection": source.connection}
    # One task: without a declared shard key, rows could move between shards while they are read.
    return OpenedSource(ray.data.read_sql(source.query, connect, override_num_blocks=1), description)


def _open_function(source: FunctionSource, function: Any) -> OpenedSource:
    import ray.data

    try:
        dataset = function(**source.params)
    except Exception as error:
        raise DataError(f"data.source.function: {source.function} raised {type(error).__name__}: {error}") from error
    if not isinstance(dataset, ray.data.Dataset):
        found = type(dataset).__name__
        raise DataError(f"data.source.function: {source.function} returned {found}, expected a ray.data.Dataset")
    params = json.loads(json.dumps(source.params, default=str))
    description = {"kind": "function", "function": source.function, "params": params}
    return OpenedSource(dataset, description, _portion(dataset))


def _portion(dataset: ray.data.Dataset) -> int | None:
    """Ray cuts small data in memory into hundreds of blocks, each of which would cost a task."""
    import ray
    from ray.data.dataset import MaterializedDataset

    if not isinstance(dataset, MaterializedDataset) or not (rows := dataset.count()):
        return None
    tasks = max(int(ray.cluster_resources().get("CPU", 1)), dataset.size_bytes() // TASK_BYTES)
    return max(1, -(-rows // tasks)) if dataset.num_blocks() > tasks else None
