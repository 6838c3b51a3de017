"""Small models of the three tasks, fitted and packaged the way a job does it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.features.fit import FitPartial
from raymlops.features.transform import Transform
from raymlops.registry.package import ModelPackage, load_package, write_package
from raymlops.registry.source import PackagedSource, collect_source
from raymlops.training.models import build_model

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
USER_MODULE = textwrap.dedent("""
    import torch
    from helper import scale


    class Linear(torch.nn.Module):
        def __init__(self, spec, width):
            super().__init__()
            self.layer = torch.nn.Linear(spec.numeric + 4, spec.outputs)
            self.flat = spec.outputs == 1

        def forward(self, inputs):
            import helper  # again, at run time

            joined = torch.cat([inputs["numeric"], inputs["pixels"].flatten(1)], 1)
            out = self.layer(joined) * helper.scale()
            return out.squeeze(1) if self.flat else out


    def build(spec, width=3):
        assert scale() > 0
        return Linear(spec, width)


    def total(a, b):
        return a + b * scale()
""")
FACTS = {"snapshot": "ab" * 32, "run_id": "r1"}


def rows(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """Raw rows with every kind of column, some values missing."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(50, 3000, n)
    frame = pd.DataFrame(
        {
            "zeta": rng.integers(0, 100, n),
            "alpha": np.where(rng.random(n) < 0.1, np.nan, distance),
            "carrier": rng.choice(["UA", "AA", "B6"], n),
            "leaves": pd.Timestamp("2024-03-01") + pd.to_timedelta(rng.integers(0, 200_000, n), unit="min"),
            "pixels": [list(map(float, rng.random(4))) for _ in range(n)],
            "minutes": distance / 8 + rng.normal(0, 3, n),
        }
    )
    frame.loc[min(3, n - 1), "carrier"] = None
    frame["late"] = np.where(frame["minutes"] > frame["minutes"].median(), "yes", "no")
    frame["band"] = np.array(["short", "middle", "long"])[np.digitize(frame["minutes"], [100, 250])]
    return frame


LABELS = {"regression": "minutes", "binary": "late", "multiclass": "band"}


def config_of(task: str = "regression", storage: Path | None = None, **changes: Any) -> Config:
    """`zeta` before `alpha`: the order of declaration is not the alphabetical one."""
    raw: dict[str, Any] = {
        "name": "trip.time",
        "task": task,
        "storage": str(storage or "unused"),
        "data": {
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "target": LABELS[task],
            "split": {"by": "hash", "key": "zeta"},
        },
        "features": {
            "numeric": {"zeta": {}, "alpha": {"missing_indicator": True}},
            "categorical": {"carrier": {}},
            "tensor": {"pixels": {"shape": [2, 2]}},
            "dates": {"leaves": {"parts": ["hour", "year"]}},
        },
        "model": {"kind": "mlp", "hidden": 8, "layers": 1},
    }
    return parse_config({**raw, **changes})


def user_files(base: Path, scale: float = 2.0) -> Path:
    """A user's directory with a model factory, a derived feature, and a module that both import."""
    base.mkdir(parents=True, exist_ok=True)
    (base / "nets.py").write_text(USER_MODULE)
    (base / "helper.py").write_text(f"def scale():\n    return {scale}\n")
    return base


def with_user_code(config: Config) -> Config:
    """The same configuration with the factory and the derived feature of `user_files`."""
    raw = config.model_dump(mode="json", by_alias=True)
    raw["model"] = {"kind": "factory", "factory": "nets:build", "params": {"width": 5}}
    raw["features"]["derived"] = {"sum": {"function": "nets:total", "inputs": ["zeta", "alpha"]}}
    raw["features"]["numeric"]["sum"] = {}
    return parse_config(raw)


def make_package(
    directory: Path, config: Config, base: Path | None = None, facts: Mapping[str, Any] = FACTS, seed: int = 0
) -> ModelPackage:
    """Fit on `rows()`, draw weights, write, load."""
    base = base or directory.parent
    frame = rows()
    source = PackagedSource(collect_source(_paths(config), base).files)
    functions = {n: source.resolve(d.function, n) for n, d in config.features.derived.items()}
    table = pa.Table.from_pandas(frame)
    ids = np.arange(len(frame), dtype=np.uint64)
    state = FitPartial.from_batch(config.features, config.task, config.data.target, functions, table, ids)
    fitted = state.finish(config.features, config.task)
    torch.manual_seed(seed)
    factory = source.resolve(config.model.factory, "model.factory") if config.model.kind == "factory" else None
    spec = Transform(config.features, fitted, config.task, functions).spec
    weights = build_model(config.model, spec, factory).state_dict()
    write_package(directory, config=config, state=fitted, weights=weights, base=base, facts=facts, created=NOW)
    return load_package(directory)


def _paths(config: Config) -> list[str]:
    paths = [d.function for d in config.features.derived.values()]
    return [*paths, config.model.factory] if config.model.kind == "factory" else paths


def example(package: ModelPackage, n: int = 3) -> pd.DataFrame:
    """Raw rows as the snapshot would give them."""
    return rows(n, seed=9)[package.config.features.raw_columns()]


def judge(config: Config, package: ModelPackage, champion: ModelPackage | None = None) -> tuple[Any, Any]:
    """Evaluation and verdict of the real gate on fresh rows."""
    from raymlops.training.evaluation import evaluate
    from raymlops.training.gate import decide

    frame = rows(80, seed=5)
    labels = package.transform.raw_targets(frame[config.data.target])
    evaluation = evaluate(
        config,
        frame,
        labels,
        package.scores,
        champion=champion.scores if champion else None,
        champion_version="1" if champion else None,
        metric="mae" if config.task == "regression" else "log_loss",
        seed=0,
        train_target=package.transform.raw_targets(rows()[config.data.target]),
    )
    return evaluation, decide(config, evaluation)
