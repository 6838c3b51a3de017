"""Batch scoring on Ray Data with a registered model: the same package, the same transform, many workers."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import connected
from raymlops.config.loading import resolve_local
from raymlops.config.tree import RayConfig
from raymlops.errors import DataError
from raymlops.store import Store
from raymlops.terminal import Terminal

if TYPE_CHECKING:
    import pandas as pd

    from raymlops.config.tree import Config

BATCH_ROWS = 16_384


class Scorer:
    """Holds one loaded package per worker; the files travel as bytes because workers may be on other machines."""

    def __init__(self, files: dict[str, bytes]) -> None:
        from raymlops.registry.package import load_package

        with tempfile.TemporaryDirectory(prefix="raymlops-model-") as folder:
            for name, data in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self.package = load_package(Path(folder))

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        predictions = self.package.predict(batch).reset_index(drop=True)
        kept = batch.reset_index(drop=True).drop(columns=predictions.columns, errors="ignore")
        return kept.join(predictions)


def score_command(
    target: Config | str, input_: str, output: str, storage: str, tracking_uri: str | None, quiet: bool
) -> dict[str, Any]:
    """Read `input_`, predict, write parquet to the new directory `output`; returns facts for display.

    `target` is a configuration (its champion scores) or a model name with an optional @alias or /version. Raises
    DataError when the output exists already or the input cannot be read, RaymlopsError when there is no such model.
    """
    from raymlops.registry.catalog import download_package

    started = time.perf_counter()
    if isinstance(target, str):
        model, ray_config = target, RayConfig()
    else:
        model, ray_config = target.name, target.ray
        storage, tracking_uri = target.storage, tracking_uri or target.tracking.uri
    destination = Store.at(output)
    if destination.list(""):
        raise DataError(f"--output: {output} exists and is not empty; predictions are never overwritten")
    terminal = Terminal(sys.stderr if quiet else sys.stdout)
    with terminal.live(), terminal.quiet(), tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
        terminal.step_started("model", f"fetch {model} from the registry")
        began = time.perf_counter()
        uri, directory = download_package(storage, tracking_uri, model, Path(folder))
        files = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
        terminal.step_done("model", time.perf_counter() - began)
        terminal.step_started("score", f"{input_} with {uri}")
        began = time.perf_counter()
        with connected(ray_config):
            rows = _score(files, resolve_local(input_, Path.cwd()), destination)
        terminal.step_done("score", time.perf_counter() - began)
    seconds = round(time.perf_counter() - started, 3)
    if not quiet:
        terminal.console.print(f"{rows:,} rows scored with {uri} into {output} in {seconds:.1f} s")
    return {"model": uri, "rows": rows, "output": output, "seconds": seconds}


def _score(files: dict[str, bytes], source: str, destination: Store) -> int:
    import ray
    import ray.data

    if "://" not in source and not Path(source).exists():
        raise DataError(f"--input: {source} does not exist")
    is_csv = source.endswith((".csv", ".csv.gz"))
    dataset = ray.data.read_csv(source) if is_csv else ray.data.read_parquet(source)
    shared = ray.put(files)

    class Worker(Scorer):
        def __init__(self) -> None:
            super().__init__(ray.get(shared))

    scored = dataset.map_batches(Worker, batch_size=BATCH_ROWS, batch_format="pandas", concurrency=(1, 8))
    scored.write_parquet(destination.uri)
    destination.write("_SUCCESS", b"")
    return int(ray.data.read_parquet(destination.uri).count())
