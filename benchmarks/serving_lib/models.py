"""The champion that everybody serves, a second version as the candidate, and the rows that are asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT

CONFIG = ROOT / "configs" / "flights.yaml"
DATA = ROOT / "configs" / "data" / "flights.parquet"
ROWS = 64
NAME = "flights-benchmark"
"""Not `flights`: an endpoint of that name may be running on this machine."""


@dataclass(frozen=True)
class Models:
    storage: Path
    tracking_uri: str
    package: Path
    """Directory of the champion's package, for peers that open it themselves."""
    champion: str
    candidate: str
    """Versions in the registry."""
    rows: Sequence[dict[str, Any]]
    expected: Sequence[float]
    """The champion's prediction of each row."""


def prepare(storage: Path) -> Models:
    """Train two versions into `storage`, unless they are there already; the first is the champion.

    Raises RuntimeError with what the training said.
    """
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import champion, find_version
    from raymlops.store import Store

    registry = tracking(f"sqlite:///{storage.resolve() / 'mlflow.db'}", Store.at(str(storage)))
    if not (storage / "mlflow.db").exists() or champion(registry, NAME) is None:
        train(storage)
        train(storage, "seed=8", "gate.champion.tolerance=10")
    first = find_version(registry, f"{NAME}@champion")
    # Not by an alias: rollouts that were promoted here before have moved the champion's.
    others = {found.version for found in registry.client.search_model_versions(f"name = '{NAME}'")} - {first.version}
    if not others:
        raise RuntimeError(f"{storage}: expected two versions of {NAME}, found {first.version} only")
    second = find_version(registry, f"{NAME}/{max(others, key=int)}")
    package = first.load()
    rows = sample(package.config.features.raw_columns())
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    expected = [float(value) for value in package.predict_columns(columns, len(rows))["prediction"]]
    return Models(storage, registry.uri, first.fetch(storage), first.version, second.version, rows, expected)


def sample(columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the data, evenly spread, as plain JSON values."""
    import pandas as pd

    frame = pd.read_parquet(DATA, columns=list(columns)).dropna()
    picked = frame.iloc[:: len(frame) // ROWS].head(ROWS)
    records: list[dict[str, Any]] = json.loads(picked.to_json(orient="records"))
    return records


def version_of(storage: Path, alias: str) -> str:
    """The version that has the alias in the registry of `storage`."""
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import find_version
    from raymlops.store import Store

    registry = tracking(f"sqlite:///{storage.resolve() / 'mlflow.db'}", Store.at(str(storage)))
    return find_version(registry, f"{NAME}@{alias}").version


def train(storage: Path, *overrides: str, config: Path = CONFIG) -> None:
    """Train and register one more version by `raymlops run`. Raises RuntimeError with what the training said."""
    settings = [
        part
        for value in (f"name={NAME}", f"storage={storage}", "search.trials=2", *overrides)
        for part in ("--set", value)
    ]
    print(f"... training {' '.join(overrides) or 'the champion'}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "raymlops", "run", str(config), *settings, "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"training failed with exit code {done.returncode}:\n{done.stderr[-2000:]}{done.stdout}")
