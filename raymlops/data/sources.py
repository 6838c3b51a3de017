"""Where rows come from: parquet, CSV, Delta Lake, SQL or a function, as one Ray Dataset of Arrow blocks.

Files are read by our own small reader rather than Ray's, for its errors: one file whose column has another type is
named together with the column and both types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raymlops.config.data import CsvSource, DataConfig, DeltaSource, FunctionSource, ParquetSource, SqlSource
from raymlops.config.loading import resolve_local
from raymlops.data.profile import kind_of, widest
from raymlops.errors import DataError
from raymlops.store import filesystem_of

if TYPE_CHECKING:
    import ray.data

PATH = "__path"
"""Extra column that says which file a row is from; removed before rows are stored."""
ROWS_PER_BLOCK = 500_000
MAX_FILES_DESCRIBED = 1000


@dataclass(frozen=True)
class OpenedSource:
    """`description` says what was opened, for lineage: kind, uri, version, files with sizes."""

    dataset: ray.data.Dataset
    description: dict[str, Any]


def open_source(data: DataConfig, base: Path, functions: Mapping[str, Any]) -> OpenedSource:
    """A dataset, not read yet. Raises DataError when the source is missing, empty or contradicts itself."""
    source = data.source
    if isinstance(source, ParquetSource | CsvSource):
        return _open_files(source, data.columns, base)
    if isinstance(source, DeltaSource):
        return _open_delta(source, data.columns, base)
    if isinstance(source, SqlSource):
        return _open_sql(source, functions["data.source.connection"])
    return _open_function(source, functions["data.source.function"])


def _open_files(source: ParquetSource | CsvSource, columns: list[str] | None, base: Path) -> OpenedSource:
    import ray.data

    paths = [source.path] if isinstance(source.path, str) else source.path
    found = [file for path in paths for file in _list_files(resolve_local(path, base), source.kind)]
    files = sorted(dict(found).items())
    if not files:
        raise DataError(f"data.source.path: no {source.kind} files under {', '.join(paths)}")
    description: dict[str, Any] = {
        "kind": source.kind,
        "uri": paths[0] if len(paths) == 1 else paths,
        "files": [{"path": Path(path).name, "bytes": size} for path, size in files[:MAX_FILES_DESCRIBED]],
        "file_count": len(files),
    }
    if isinstance(source, ParquetSource):
        pieces = _parquet_pieces([path for path, _ in files])
        reader: Any = _ParquetReader(columns)
    else:
        pieces = [{"path": path} for path, _ in files]
        reader = _CsvReader(source, columns)
    dataset = ray.data.from_items(pieces, override_num_blocks=len(pieces))
    return OpenedSource(dataset.map_batches(reader, batch_format="pyarrow", batch_size=1), description)


def _list_files(uri: str, kind: str) -> list[tuple[str, int]]:
    """(URI or path, bytes) of the data files at or below `uri`."""
    from pyarrow import fs

    try:
        filesystem, path = filesystem_of(uri)
        info = filesystem.get_file_info(path)
    except (OSError, ValueError, pa.ArrowInvalid, ImportError) as error:
        raise DataError(f"data.source.path: cannot open {uri}: {error}") from error
    if info.type == fs.FileType.NotFound:
        raise DataError(f"data.source.path: {uri} does not exist")
    prefix = uri[: len(uri) - len(path)] if "://" in uri and uri.endswith(path) else ""
    if info.type == fs.FileType.File:
        return [(uri, info.size)]
    endings = (".parquet", ".pq") if kind == "parquet" else (".csv", ".csv.gz", ".tsv", ".txt")
    below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    return [
        (prefix + entry.path, entry.size)
        for entry in below
        if entry.type == fs.FileType.File and entry.path.endswith(endings) and not _hidden(entry.path[len(path) :])
    ]


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/") if part)


def _parquet_pieces(paths: list[str]) -> list[dict[str, Any]]:
    """Row-group ranges to read, after comparing every footer's column kinds."""
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer, paths))
    seen: dict[str, tuple[str, str, pa.DataType]] = {}
    pieces: list[dict[str, Any]] = []
    for path, (schema, groups) in zip(paths, footers, strict=True):
        for column in schema:
            kind = kind_of(column.type)
            if column.name not in seen:
                seen[column.name] = (kind, path, column.type)
                continue
            known, first, first_type = seen[column.name]
            if widest(known, kind) == "mixed":
                raise DataError(
                    f"data.source: column {column.name!r} is {column.type} in {path}, but {first_type} in {first}"
                )
            seen[column.name] = (widest(known, kind), first, first_type)
        start = rows = 0
        for group, count in enumerate(groups):
            rows += count
            if rows >= ROWS_PER_BLOCK or group == len(groups) - 1:
                pieces.append({"path": path, "first": start, "last": group + 1})
                start, rows = group + 1, 0
    missing = [
        (path, name)
        for path, (schema, _) in zip(paths, footers, strict=True)
        for name in seen
        if name not in schema.names
    ]
    if missing:
        path, name = missing[0]
        raise DataError(f"data.source: column {name!r} is missing in {path}, but present in {seen[name][1]}")
    if not pieces:
        raise DataError(f"data.source: {len(paths)} file(s), but no rows in any of them")
    return pieces


def _footer(path: str) -> tuple[pa.Schema, list[int]]:
    import pyarrow.parquet as pq

    filesystem, inner = filesystem_of(path)
    try:
        with filesystem.open_input_file(inner) as file:
            parquet = pq.ParquetFile(file)
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            return parquet.schema_arrow, counts
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"data.source: {path} is not a readable parquet file: {error}") from error


@dataclass(frozen=True)
class _ParquetReader:
    columns: list[str] | None

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for piece in pieces.to_pylist():
            filesystem, inner = filesystem_of(piece["path"])
            with filesystem.open_input_file(inner) as file:
                parquet = pq.ParquetFile(file)
                columns = _wanted(self.columns, parquet.schema_arrow.names, piece["path"])
                table = parquet.read_row_groups(list(range(piece["first"], piece["last"])), columns=columns)
            yield _from_file(table, piece["path"])


@dataclass(frozen=True)
class _CsvReader:
    source: CsvSource
    columns: list[str] | None

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        from pyarrow import csv

        for piece in pieces.to_pylist():
            path = piece["path"]
            filesystem, inner = filesystem_of(path)
            options = csv.ConvertOptions(null_values=self.source.null_values, strings_can_be_null=True)
            try:
                with filesystem.open_input_stream(inner, compression="detect") as file:
                    table = csv.read_csv(
                        file, parse_options=csv.ParseOptions(delimiter=self.source.delimiter), convert_options=options
                    )
            except pa.ArrowInvalid as error:
                raise DataError(f"data.source: {path} is not readable as CSV: {error}") from error
            yield _from_file(table.select(_wanted(self.columns, table.column_names, path)), path)


def _wanted(columns: list[str] | None, present: list[str], path: str) -> list[str]:
    if columns is None:
        return present
    missing = [name for name in columns if name not in present]
    if missing:
        raise DataError(f"data.columns: {missing[0]!r} is missing in {path}; it has {', '.join(present)}")
    return columns


def _from_file(table: pa.Table, path: str) -> pa.Table:
    name = pa.array([path]).dictionary_encode()
    indices = pa.array([0], pa.int32()).take(pa.array([0] * table.num_rows, pa.int32()))
    return table.append_column(PATH, pa.DictionaryArray.from_arrays(indices, name.dictionary))


def _open_delta(source: DeltaSource, columns: list[str] | None, base: Path) -> OpenedSource:
    import ray.data
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    uri = resolve_local(source.path, base)
    try:
        table = DeltaTable(uri, version=source.version)
        if source.timestamp is not None:
            table.load_as_version(source.timestamp)
        version = table.version()
    except TableNotFoundError as error:
        raise DataError(f"data.source.path: no Delta Lake table at {uri}") from error
    except (DeltaError, OSError, ValueError) as error:
        wanted = f"version {source.version}" if source.version is not None else "the table"
        raise DataError(f"data.source: cannot open {wanted} of {uri}: {error}") from error
    description = {
        "kind": "delta",
        "uri": source.path,
        "version": version,
        "table_id": str(table.metadata().id),
        "file_count": len(table.file_uris()),
    }
    if not table.file_uris():
        raise DataError(f"data.source: version {version} of {uri} has no rows")
    return OpenedSource(ray.data.read_delta(uri, version=version, columns=columns), description)


def _open_sql(source: SqlSource, connect: Any) -> OpenedSource:
    import ray.data

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
    return OpenedSource(dataset, {"kind": "function", "function": source.function, "params": params})
