"""Parquet and CSV files as one Ray Dataset of Arrow blocks.

Files are read by our own small readers rather than Ray's, for the errors: a file whose column has another type than the
rest is named together with the column and both types, before (parquet) or while (CSV) rows are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raymlops.config.data import CsvSource, ParquetSource
from raymlops.data.kinds import kind_of, widest
from raymlops.errors import DataError
from raymlops.store import filesystem_of

if TYPE_CHECKING:
    import ray.data

PATH = "__path"
"""Extra column that says which file a row is from; removed before rows are stored."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 65_536, 524_288
MAX_BLOCK_BYTES = 256 * 2**20
"""Row groups are read together up to this size in memory."""
ENDINGS = {"parquet": (".parquet", ".pq"), "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")}


@dataclass(frozen=True)
class DataFile:
    """A file found below a configured path."""

    uri: str
    name: str
    """Relative to the configured path."""
    bytes: int
    modified: datetime | None
    partition: tuple[tuple[str, str], ...] = ()
    """Columns from directory names such as `day=2026-01-01`."""

    def describe(self, sha256: str | None = None) -> dict[str, Any]:
        when = self.modified.astimezone(UTC).isoformat() if self.modified else None
        known = {} if sha256 is None else {"sha256": sha256}
        return {"path": self.name, "bytes": self.bytes, "modified": when, **known}


def list_files(uri: str, kind: str) -> list[DataFile]:
    """The data files at or below a path or URI, hidden ones left out. Raises DataError when it does not exist."""
    from pyarrow import fs

    try:
        filesystem, path = filesystem_of(uri)
        info = filesystem.get_file_info(path)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"data.source.path: cannot open {uri}: {error}") from error
    if info.type == fs.FileType.NotFound:
        raise DataError(f"data.source.path: {uri} does not exist")
    if info.type == fs.FileType.File:
        return [DataFile(uri, info.base_name, info.size, info.mtime)]
    plain, _, query = uri.partition("?")
    prefix = plain.removesuffix("/").removesuffix(path.rstrip("/")) if "://" in uri else ""
    found = []
    for entry in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
        name = entry.path[len(path) :].strip("/")
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if entry.type == fs.FileType.File and entry.path.endswith(ENDINGS[kind]) and not hidden:
            where = f"{prefix}{entry.path}" + (f"?{query}" if query else "")
            found.append(DataFile(where, name, entry.size, entry.mtime, _partition(name)))
    return sorted(found, key=lambda file: file.uri)


def _partition(name: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.partition("=") for part in name.split("/")[:-1])
    return tuple((key, value) for key, equals, value in pairs if key and equals)


def open_parquet(files: Sequence[DataFile], columns: list[str] | None) -> ray.data.Dataset:
    """Blocks of whole row groups, after comparing what every file's footer says. Raises DataError naming file and
    column where files contradict each other."""
    import ray
    import ray.data

    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer, files))
    _compare(files, [schema for schema, _ in footers], columns)
    total = sum(rows for _, groups in footers for rows, _ in groups)
    if total == 0:
        raise DataError(f"data.source: {len(files)} file(s), but no rows in any of them")
    share = total // max(1, int(ray.cluster_resources().get("CPU", 1)))
    wanted = min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, share))
    pieces: list[dict[str, Any]] = []
    for number, (_, groups) in enumerate(footers):
        first = rows = size = 0
        for group, (count, memory) in enumerate(groups):
            rows, size = rows + count, size + memory
            if rows and (rows >= wanted or size >= MAX_BLOCK_BYTES or group == len(groups) - 1):
                pieces.append({"file": number, "first": first, "last": group + 1})
                first, rows, size = group + 1, 0, 0
    return ray.data.from_items(
        [{**piece, **_travel(files[piece["file"]])} for piece in pieces], override_num_blocks=len(pieces)
    ).map_batches(_ParquetReader(columns), batch_format="pyarrow", batch_size=1)


def open_csv(files: Sequence[DataFile], source: CsvSource, columns: list[str] | None) -> ray.data.Dataset:
    """One block per file, because the types of a CSV file's columns are known once all of it is read."""
    import ray.data

    items = ray.data.from_items([_travel(file) for file in files], override_num_blocks=len(files))
    return items.map_batches(_CsvReader(source, columns), batch_format="pyarrow", batch_size=1)


def open_files(source: ParquetSource | CsvSource, files: list[DataFile], columns: list[str] | None) -> ray.data.Dataset:
    if isinstance(source, ParquetSource):
        return open_parquet(files, columns)
    return open_csv(files, source, columns)


def _travel(file: DataFile) -> dict[str, Any]:
    return {"uri": file.uri, "keys": [k for k, _ in file.partition], "values": [v for _, v in file.partition]}


def _footer(file: DataFile) -> tuple[pa.Schema, list[tuple[int, int]]]:
    """Schema, and rows and bytes of every row group."""
    import pyarrow.parquet as pq

    try:
        filesystem, inner = filesystem_of(file.uri)
        with filesystem.open_input_file(inner) as opened:
            parquet = pq.ParquetFile(opened)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            return parquet.schema_arrow, [(group.num_rows, group.total_byte_size) for group in groups]
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"data.source: {file.uri} is not a readable parquet file: {error}") from error


def _compare(files: Sequence[DataFile], schemas: Sequence[pa.Schema], columns: list[str] | None) -> None:
    seen: dict[str, tuple[str, str, pa.DataType]] = {}
    for file, schema in zip(files, schemas, strict=True):
        for column in schema:
            if columns is not None and column.name not in columns:
                continue
            kind = kind_of(column.type)
            known, first, first_type = seen.get(column.name, ("null", file.uri, column.type))
            together = widest(known, kind)
            if together == "mixed":
                raise DataError(
                    f"data.source: column {column.name!r} is {column.type} in {file.uri}, but {first_type} in {first}"
                )
            # Remember a file that has values: the null type of an empty column contradicts nothing.
            seen[column.name] = (together, *((file.uri, column.type) if known == "null" else (first, first_type)))
    for file, schema in zip(files, schemas, strict=True):
        for name, (_, first, _) in seen.items():
            if name not in schema.names:
                raise DataError(f"data.source: column {name!r} is missing in {file.uri}, but present in {first}")


@dataclass(frozen=True)
class _ParquetReader:
    columns: list[str] | None

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for piece in pieces.to_pylist():
            filesystem, inner = filesystem_of(piece["uri"])
            try:
                with filesystem.open_input_file(inner) as file:
                    parquet = pq.ParquetFile(file)
                    names = parquet.schema_arrow.names
                    kept = None if self.columns is None else [name for name in self.columns if name in names]
                    table = parquet.read_row_groups(list(range(piece["first"], piece["last"])), columns=kept)
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"data.source: {piece['uri']} cannot be read: {error}") from None
            yield _labelled(table, piece)


@dataclass(frozen=True)
class _CsvReader:
    source: CsvSource
    columns: list[str] | None

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        from pyarrow import csv

        parse = csv.ParseOptions(delimiter=self.source.delimiter)
        convert = csv.ConvertOptions(null_values=self.source.null_values, strings_can_be_null=True)
        for piece in pieces.to_pylist():
            filesystem, inner = filesystem_of(piece["uri"])
            try:
                with filesystem.open_input_stream(inner, compression="detect") as file:
                    table = csv.read_csv(file, parse_options=parse, convert_options=convert)
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"data.source: {piece['uri']} is not readable as CSV: {error}") from None
            if self.columns is not None:
                table = table.select([name for name in self.columns if name in table.column_names])
            yield _labelled(table, piece)


def _labelled(table: pa.Table, piece: dict[str, Any]) -> pa.Table:
    """The table with its partition's columns and the path of its file, each one value for all rows."""
    for key, value in zip(piece["keys"], piece["values"], strict=True):
        if key not in table.column_names:
            table = table.append_column(key, pa.repeat(pa.scalar(value), table.num_rows))
    path = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), pa.array([piece["uri"]]))
    return table.append_column(PATH, path)
