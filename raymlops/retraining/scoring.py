"""Batch scoring on Ray Data with a registered model: the same package, the same transform, many workers."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import connected
from raymlops.config.data import CsvSource, ParquetSource
from raymlops.config.loading import resolve_local
from raymlops.config.tree import RayConfig
from raymlops.data.files import ENDINGS, PATH, list_files, open_files
from raymlops.data.ray_errors import user_error
from raymlops.errors import DataError
from raymlops.retraining.steps import Steps
from raymlops.store import Store, filesystem_of
from raymlops.terminal import Terminal

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

    from raymlops.config.tree import Config

BATCH_ROWS = 16_384


class Scorer:
    """Holds one loaded package per worker; the files travel as bytes because workers may be on other machines."""

    def __init__(self, files: ray.ObjectRef[dict[str, bytes]], sha256: str) -> None:
        import ray

        from raymlops.registry.package import open_package

        self.package = open_package(ray.get(files), sha256=sha256)

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        rows = batch.drop(columns=PATH).reset_index(drop=True)
        predictions = self.package.predict(rows).reset_index(drop=True)
        return rows.drop(columns=predictions.columns, errors="ignore").join(predictions)


def score_command(
    target: Config | str, input_: str, output: str, storage: str, tracking_uri: str | None, quiet: bool
) -> dict[str, Any]:
    """Read `input_`, predict, write parquet to the new directory `output`; returns facts for display.

    `target` is a configuration (its champion scores) or a model name with an optional @alias or /version. Raises
    DataError when the output exists already or the input cannot be read, RaymlopsError when there is no such model.
    """
    from raymlops.registry.backend import tracking
    from raymlops.registry.package import read_files
    from raymlops.registry.versions import find_version

    started = time.perf_counter()
    if isinstance(target, str):
        model, ray_config = target, RayConfig()
    else:
        model, ray_config = target.name, target.ray
        storage, tracking_uri = target.storage, tracking_uri or target.tracking.uri
    destination = Store.at(output)
    if destination.list(""):
        raise DataError(f"--output: {output} exists and is not empty; predictions are never overwritten")
    csv = CsvSource(kind="csv", path=input_)
    if not isinstance(target, str) and isinstance(target.data.source, CsvSource):
        csv = target.data.source  # its delimiter and its words for missing values
    terminal = Terminal(sys.stderr if quiet else sys.stdout)
    steps = Steps(terminal)
    with (
        terminal.scratch_log(),
        terminal.live(),
        terminal.quiet(),
        tempfile.TemporaryDirectory(prefix="raymlops-") as folder,
    ):
        with steps.step("model", f"fetch {model} from the registry"):
            version = find_version(tracking(tracking_uri, Store.at(storage)), model)
            files = read_files(version.fetch(Path(folder)))
        with steps.step("score", f"{input_} with {version.uri}"), connected(ray_config):
            source = resolve_local(input_, Path.cwd())
            rows = _score(files, version.package_sha256, _open(source, csv), destination)
    seconds = round(time.perf_counter() - started, 3)
    if not quiet:
        terminal.console.print(f"{rows:,} rows scored with {version.uri} into {output} in {seconds:.1f} s")
    return {"model": version.uri, "rows": rows, "output": output, "seconds": seconds}


def _open(source: str, csv: CsvSource) -> ray.data.Dataset:
    """The rows below a path or URI, parquet or CSV by the files' endings."""
    try:
        for reader in (ParquetSource(kind="parquet", path=source), csv):
            files = [file for file in list_files(source, reader.kind) if file.uri.endswith(ENDINGS[reader.kind])]
            if files:
                return open_files(reader, files, None)
    except DataError as error:
        raise DataError(_of_input(error)) from error
    raise DataError(f"--input: no parquet or CSV files under {source}")


def _of_input(error: BaseException) -> str:
    return re.sub(r"^data\.source(\.path)?:", "--input:", str(error))


def _score(files: dict[str, bytes], sha256: str, dataset: ray.data.Dataset, destination: Store) -> int:
    import ray
    from pyarrow import parquet

    ray.data.DataContext.get_current().enable_progress_bars = False
    scored = dataset.map_batches(
        Scorer,
        fn_constructor_args=(ray.put(files), sha256),
        batch_size=BATCH_ROWS,
        batch_format="pandas",
        concurrency=(1, max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)),
    )
    try:
        scored.write_parquet(destination.uri)
    except Exception as error:
        destination.delete_tree("")  # it was empty before, and half of the predictions are none
        told = user_error(error, "--input: scoring failed")
        raise type(told)(_of_input(told)) from error
    destination.write("_SUCCESS", b"")
    filesystem, path = filesystem_of(destination.uri)
    names = [name for name in destination.list("") if name.endswith(".parquet")]
    return sum(parquet.read_metadata(f"{path}/{name}", filesystem=filesystem).num_rows for name in names)
