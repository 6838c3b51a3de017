"""One Ray and one small snapshot for all integration tests: making either per test would take most of the time."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
from lab import Lab
from snapshot_cases import trips

from raymlops.config import Config
from raymlops.config.loading import parse_config
from raymlops.imports import ship_by_value
from raymlops.store import Store

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    sys.path.insert(0, str(HERE))  # user code of the tests: user_code.py
    import user_code  # noqa: F401  (must be loaded to be shipped)

    # Seconds between two looks of Ray Train at its workers; 2 unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ship_by_value(HERE)
    yield
    ray.shutdown()
    sys.path.remove(str(HERE))


def frame(rows: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Rows whose label follows two numbers and a category, with noise."""
    draw = np.random.default_rng(seed)
    x, z = draw.normal(size=rows), draw.uniform(0, 10, size=rows)
    group = draw.choice(["a", "b", "c"], size=rows)
    shift = pd.Series(group).map({"a": 0.0, "b": 2.0, "c": 5.0}).to_numpy()
    y = 3 * x + z + shift + draw.normal(scale=0.3, size=rows)
    return pd.DataFrame({"id": np.arange(rows), "x": x, "z": z, "group": group, "y": y})


RAW: dict[str, Any] = {
    "name": "small",
    "task": "regression",
    "seed": 1,
    "data": {
        "source": {"kind": "parquet", "path": "rows.parquet"},
        "target": "y",
        "split": {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2},
        "shard_rows": 500,
    },
    "features": {"numeric": {"x": {}, "z": {}}, "categorical": {"group": {}}},
    "model": {"kind": "mlp", "hidden": 16, "layers": 1},
    "train": {"epochs": 3, "batch_size": 64, "learning_rate": 0.02},
    "search": {"trials": 2, "space": {"train.learning_rate": {"loguniform": [0.005, 0.05]}}},
    "gate": {"slices": ["group"]},
}

Configure = Callable[..., Config]


def configured(changes: dict[str, Any]) -> Config:
    raw = copy.deepcopy(RAW)
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = raw
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return parse_config(raw)


@dataclass(frozen=True)
class Prepared:
    """A built snapshot and what trials need around it."""

    base: Path
    store: Store
    snapshot: Any

    def context(self, config: Config, run: str, **custom: Any) -> Any:
        from raymlops.features.transform import Transform
        from raymlops.training.loop import Target
        from raymlops.training.trial import TrialContext

        state = self.snapshot.state()
        spec = Transform(config.features, state, config.task, {}).spec
        target = Target(**state.target)
        return TrialContext(config, spec, target, self.snapshot, self.store, f"runs/small/{run}", **custom)


@pytest.fixture(scope="session")
def prepared(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    from raymlops.data.build import build_snapshot

    base = tmp_path_factory.mktemp("small")
    frame().to_parquet(base / "rows.parquet")
    store = Store(str(base / "storage"))
    built = build_snapshot(configured({}), base, store, "setup", datetime.now(UTC), {})
    return Prepared(base, store, built.snapshot)


@pytest.fixture
def lab(tmp_path: Path, ray_session: None) -> Lab:
    """Five days of trips in a directory of their own."""
    lab = Lab(tmp_path)
    lab.parquet(trips())
    return lab
