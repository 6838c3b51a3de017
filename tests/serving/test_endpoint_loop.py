"""The circle on a live endpoint: traffic and labels, a concept that changes, one retraining, its rollout, and quiet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from conftest import SERVING
from hand_client import eventually

from raymlops.chain import Entry
from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.registry.catalog import list_models, list_runs
from raymlops.retraining.loop import Loop, Round
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.watch import Silent
from raymlops.store import Store

NAME = "tides"
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=60)
"""The endpoint's first day. Rows carry their own time, so that weeks of traffic take seconds."""
DAY = timedelta(days=1)
ROWS = 40
"""Requests a day."""


def days(first: int, last: int, rows: int, slope: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Rows of days `first` to `last`, counted from FIRST; `slope` is what the model has to learn."""
    draw = np.random.default_rng([seed, first + 1000])
    total = rows * (last - first)
    x, group = draw.normal(size=total), draw.choice(["a", "b"], size=total)
    at = FIRST + np.repeat(np.arange(first, last), rows) * DAY + np.tile(np.arange(rows), last - first) * DAY / rows
    y = slope * x + np.where(group == "a", 0.0, 2.0) + draw.normal(scale=0.2, size=total)
    return pd.DataFrame({"at": pd.to_datetime(at).tz_localize(None), "x": x, "group": group, "y": y})


def configured(root: Path, port: int) -> Config:
    return parse_config(
        {
            "name": NAME,
            "task": "regression",
            "storage": str(root / "storage"),
            "data": {
                "source": {"kind": "parquet", "path": "rows.parquet"},
                "target": "y",
                "split": {
                    "by": "time",
                    "column": "at",
                    "validation_from": (FIRST - 20 * DAY).isoformat(),
                    "holdout_from": (FIRST - 14 * DAY).isoformat(),
                },
            },
            "features": {
                "numeric": {"x": {}},
                "categorical": {"group": {}},
                "dates": {"at": {"parts": ["hour"]}},
            },
            "model": {"kind": "mlp", "hidden": 16, "layers": 1},
            "train": {"epochs": 6, "batch_size": 32, "learning_rate": 0.03},
            "search": {"trials": 1},
            "serving": {**SERVING, "port": port, "key": {}, "tokens": {"admin": f"file:{root}/admin"}},
            "rollout": {
                "steps": [{"share": 0.5}],
                "warmup_seconds": 0.2,
                "cooldown_seconds": 0,
                "bake_seconds": 0,
                "comparisons": {"errors": {"kind": "rate", "excess": 0.2, "strata": 1}},
            },
            "labels": {"max_delay": "P365D"},
            "monitoring": {"time": "at", "performance": {"independent": True, "loss_scale": 4.0}},
            "retraining": {
                "cooldown": 0,
                "window": {"days": 7, "validation_days": 2, "holdout_days": 2},
            },
        }
    )


@dataclass
class Flow:
    """The endpoint as its users see it, and the loop as its owner does."""

    url: str
    root: Path
    config: Config
    session: requests.Session = field(default_factory=requests.Session)
    day: int = 0
    asked: int = 0

    def predict(self, row: dict[str, Any]) -> requests.Response:
        reply = self.session.post(f"{self.url}/v2/models/{NAME}/rows", json={"rows": [row]}, timeout=20)
        assert reply.status_code == 200, reply.text
        self.asked += 1
        return reply

    def live(self, count: int, slope: float, spoil: bool = False) -> None:
        """So many days of requests, and their labels by feedback."""
        frame = days(self.day, self.day + count, ROWS, slope, seed=1)
        if spoil:  # another unit, and a third is missing
            frame["x"] = np.where(np.arange(len(frame)) % 3 == 0, np.nan, frame["x"] * 1000.0)
        self.day += count
        labels = []
        for row in frame.to_dict("records"):
            label = row.pop("y")
            row["at"] = row["at"].isoformat()
            row["x"] = None if np.isnan(row["x"]) else row["x"]
            found = self.predict(row).headers["x-raymlops-prediction-id"]
            labels.append({"prediction_id": found, "label": label})
        told = self.session.post(f"{self.url}/v2/models/{NAME}/feedback", json={"labels": labels}, timeout=20)
        assert told.status_code == 200, told.text

    def written(self, asked: int) -> bool:
        from raymlops.serving.prediction_reader import read_predictions

        now = datetime.now(UTC)
        found = read_predictions(Store(self.config.storage), NAME, now - DAY, now + DAY, ["time"])
        return found.num_rows >= asked

    def round(self) -> Round:
        """A look now: every day of the rows is over long ago."""
        asked = self.asked  # so far: traffic in the background goes on
        eventually("the log is written", lambda: self.written(asked))
        return Loop(self.config, self.root).round(datetime.now(UTC))

    def ledger(self) -> list[Entry]:
        from raymlops.chain import Chain

        return Chain(Store(self.config.storage), f"retraining/{NAME}").entries()

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Requests without labels, in the background: a rollout needs some."""
        end = threading.Event()
        row = {"at": (FIRST + self.day * DAY).isoformat(), "x": 0.1, "group": "a"}

        def ask() -> None:
            while not end.wait(0.002):
                self.predict(row)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            yield
        finally:
            end.set()
            asking.join(20)


@pytest.fixture
def flow(serve_session: int, tmp_path: Path) -> Iterator[Flow]:
    from ray import serve

    from raymlops.rollout.controller import ensure_controller, find_controller
    from raymlops.serving.app import application
    from raymlops.serving.args import EndpointArgs

    config = configured(tmp_path, serve_session)
    days(-60, 0, ROWS).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "admin").write_text("0f7c")
    assert run_job(config, tmp_path, Silent()).version == "1"
    args = EndpointArgs.of(config)
    champion = args.stage_champion()
    ensure_controller(args.controller_config(champion))
    serve.run(application(args, champion), name=NAME, route_prefix=f"/{NAME}")
    yield Flow(f"http://127.0.0.1:{serve_session}/{NAME}", tmp_path, config)
    import ray

    serve.delete(NAME)
    ray.kill(find_controller(NAME))


def test_a_changed_concept_is_retrained_once_and_a_bad_partition_is_not(flow: Flow) -> None:
    flow.live(10, slope=3.0)
    calm = flow.round()
    assert calm.decision.code == "no_cause" and calm.observation.labelled == 10 * ROWS

    flow.live(8, slope=-3.0)
    found = flow.round()
    assert (found.decision.cause, found.decision.since) == ("degradation", (FIRST + 10 * DAY).date().isoformat())
    with flow.traffic():
        eventually("the new version is promoted", lambda: flow.round().retraining is None)
    kinds = [entry.kind for entry in flow.ledger() if entry.kind != "decision"]
    assert kinds == ["opened", "began", "trained", "delivering", "ended"]
    [ended] = [entry for entry in flow.ledger() if entry.kind == "ended"]
    assert ended.payload["outcome"] == "promoted"
    [champion] = [m for m in list_models(flow.config.storage, None, NAME) if "champion" in m.aliases]
    assert champion.version == "2"

    flow.live(10, slope=-3.0)
    quiet = flow.round()
    assert quiet.observation.version == "2" and quiet.decision.code == "no_cause"

    flow.live(9, slope=-3.0, spoil=True)
    blocked = flow.round()
    assert blocked.decision.cause == "degradation" and blocked.retraining is not None
    assert blocked.retraining.phase == "blocked" and blocked.retraining.ended is not None
    assert "x" in blocked.retraining.ended["reason"]
    assert flow.round().decision.code == "handled"

    def order(token: str) -> int:
        url, told = f"{flow.url}/v2/models/{NAME}/retraining", {"reason": "corrected", "by": "dbt", "id": "7"}
        headers = {"authorization": f"Bearer {token}"}
        return flow.session.post(url, json=told, headers=headers, timeout=20).status_code

    assert [order("wrong"), order("0f7c"), order("0f7c")] == [401, 202, 202]
    held = flow.round().decision
    assert (held.cause, held.incident, held.code) == ("order", "order-7", "budget") and "by dbt" in held.reason
    verdicts = [run.verdict for run in list_runs(flow.config.storage, None, NAME)]
    assert verdicts == ["stopped", "blessed", "blessed"]
