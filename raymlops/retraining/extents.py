"""How much there is to train on, without reading it: what the triggers `rows` and `partitions` count."""

from __future__ import annotations

from pathlib import Path

from raymlops.config.data import CsvSource, DeltaSource, ParquetSource
from raymlops.config.loading import resolve_local
from raymlops.config.tree import Config
from raymlops.errors import DataError
from raymlops.retraining.loop import Extent
from raymlops.store import filesystem_of


def of_labelled(location: str) -> Extent:
    """Rows and days of the directory of labelled predictions."""
    from raymlops.data.files import list_files

    try:
        files = list_files(location, "parquet")
    except DataError:  # nothing was joined yet
        return Extent(0, 0)
    days = {file.name.rpartition("/")[0] for file in files}
    return Extent(_parquet_rows([file.uri for file in files]), len(days))


def of_source(config: Config, base: Path) -> Extent:
    """Rows and files of `data.source`; SQL and functions cannot be counted."""
    from raymlops.data.files import list_files

    source = config.data.source
    if isinstance(source, ParquetSource | CsvSource):
        paths = [source.path] if isinstance(source.path, str) else source.path
        found = {f.uri for path in paths for f in list_files(resolve_local(path, base), source.kind)}
        return Extent(_parquet_rows(sorted(found)) if source.kind == "parquet" else None, len(found))
    if isinstance(source, DeltaSource):
        return _delta(resolve_local(source.path, base))
    return Extent(None, None)


def _parquet_rows(uris: list[str]) -> int:
    """From the files' footers. Raises DataError naming one that cannot be read, as while it is being written."""
    from pyarrow import ArrowInvalid, parquet

    total = 0
    for uri in uris:
        try:
            filesystem, path = filesystem_of(uri)
            total += parquet.read_metadata(path, filesystem=filesystem).num_rows
        except (OSError, ArrowInvalid) as error:
            raise DataError(f"data.source: {uri} is not a readable parquet file: {error}") from error
    return total


def _delta(uri: str) -> Extent:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(uri)
        return Extent(int(table.count()), len(table.file_uris()))
    except (DeltaError, OSError) as error:
        raise DataError(f"data.source: cannot open {uri}: {error}") from error
