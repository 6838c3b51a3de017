"""Labels from the tables under `labels.sources`, as far as they are new."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.config.data import CsvSource, ParquetSource
from raymlops.config.labels import LabelSource
from raymlops.config.loading import resolve_local
from raymlops.config.tree import Config
from raymlops.errors import DataError
from raymlops.monitoring.label_match import LABELS
from raymlops.monitoring.label_units import source_columns, table_labels
from raymlops.store import filesystem_of

if TYPE_CHECKING:
    import ray.data

    from raymlops.data.files import DataFile


class Sources:
    """`before` is what earlier joins have read, `read_now` what will have been read when this one is done."""

    def __init__(self, config: Config, base: Path, now: datetime, before: dict[str, dict[str, Any]]) -> None:
        self._config, self._base, self._now, self._before = config, base, now, before
        self.read_now: dict[str, dict[str, Any]] = {}

    def read(self, stack: ExitStack) -> tuple[list[pa.Table], int]:
        """Labels by source, and how many do not fit. Connects to Ray where there is something to read, for as long as
        `stack` is open. Raises DataError naming the source."""
        tables, refused = [], 0
        for number, source in enumerate(self._config.labels.sources):
            field = f"labels.sources[{number}]"
            digest = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:16]
            before = self._before.get(digest, {})
            try:
                pieces, seen = self._rows(source, field, before, stack)
            except DataError as error:
                raise DataError(_of_labels(error, field)) from error
            until = datetime.fromisoformat(before["received"]) if before.get("received") else None
            times = [until]
            for rows, unseen in pieces:
                if not rows.num_rows:
                    continue
                labels, unfit, newest = table_labels(
                    rows,
                    source,
                    field,
                    target=self._config.data.target,
                    endpoint=self._config.name,
                    task=self._config.task,
                    times=self._config.features.dates,
                    now=self._now,
                    after=None if unseen else until,
                )
                times.append(newest)
                tables.append(labels)
                refused += unfit
            if source.received is not None and (known := [time for time in times if time is not None]):
                seen["received"] = max(known).isoformat()
            self.read_now[digest] = seen
        return tables or [LABELS.empty_table()], refused

    def _rows(
        self, source: LabelSource, field: str, before: dict[str, Any], stack: ExitStack
    ) -> tuple[list[tuple[pa.Table, bool]], dict[str, Any]]:
        """What is there that was not there before, each table with whether it is of files that no join has seen; and
        what to remember."""
        columns = source_columns(source, self._config.data.target)
        inner = source.source
        if isinstance(inner, ParquetSource | CsvSource):
            return self._files(inner, columns, before, stack)
        from raymlops.data.sources import open_source
        from raymlops.imports import resolve, ship_by_value, user_functions

        self._connect(stack)
        paths = {k: v for k, v in user_functions(self._config).items() if k.startswith(f"{field}.")}
        functions = {k.replace(field, "data", 1): resolve(path, k) for k, path in paths.items()}
        ship_by_value(self._base)
        data = self._config.data.model_copy(update={"source": inner, "columns": columns})
        opened = open_source(data, self._base, functions)
        seen = {"version": opened.description["version"]} if inner.kind == "delta" else {}
        if seen and seen["version"] == before.get("version"):
            return [], seen
        return [(_collected(opened.dataset, columns), False)], seen

    def _files(
        self, inner: ParquetSource | CsvSource, columns: list[str], before: dict[str, Any], stack: ExitStack
    ) -> tuple[list[tuple[pa.Table, bool]], dict[str, Any]]:
        from raymlops.data.files import list_files, open_files

        paths = [inner.path] if isinstance(inner.path, str) else inner.path
        listed = [file for path in paths for file in list_files(resolve_local(path, self._base), inner.kind)]
        marks = {file.uri: _mark(file) for file in listed}
        known = before.get("files", {})
        new = list({file.uri: file for file in listed if known.get(file.uri) != marks[file.uri]}.values())
        new = [file for file in new if inner.kind == "csv" or _has_rows(file)]
        if new:
            self._connect(stack)
        pieces = []
        for unseen in (True, False):
            if files := [file for file in new if (file.uri not in known) == unseen]:
                pieces.append((_collected(open_files(inner, files, columns), columns), unseen))
        return pieces, {"files": marks}

    def _connect(self, stack: ExitStack) -> None:
        from raymlops.cluster import connected

        stack.enter_context(connected(self._config.ray))


def _collected(dataset: ray.data.Dataset, columns: list[str]) -> pa.Table:
    import ray
    import ray.data

    from raymlops.data.ray_errors import user_error

    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    except Exception as error:
        raise user_error(error, "data.source: reading failed") from error
    tables = [table.select([name for name in columns if name in table.column_names]) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def _has_rows(file: DataFile) -> bool:
    """A file without rows says that there are no labels yet; elsewhere it would be an error."""
    filesystem, path = filesystem_of(file.uri)
    try:
        return bool(pq.read_metadata(path, filesystem=filesystem).num_rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"data.source: {file.uri} is not a readable parquet file: {error}") from error


def _of_labels(error: Exception, field: str) -> str:
    return re.sub(r"^data\.(source|columns)", f"{field}.source", str(error))


def _mark(file: DataFile) -> list[Any]:
    return [file.bytes, file.modified.isoformat() if file.modified else None]
