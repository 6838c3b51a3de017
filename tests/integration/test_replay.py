"""Registered models answer through what an endpoint answers with; from the log alone the same bits come again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from registry_cases import config_of, judge, make_package, rows, user_files, with_user_code
from typer.testing import CliRunner

from raymlops.cli import app
from raymlops.config import Config
from raymlops.errors import RaymlopsError
from raymlops.monitoring.label_join import join_labels
from raymlops.monitoring.label_status import label_status
from raymlops.monitoring.replay import replay, replay_skew
from raymlops.monitoring.trace import trace
from raymlops.registry import publishing
from raymlops.registry.backend import Tracking, tracking
from raymlops.registry.package import ModelPackage
from raymlops.registry.tracking import Tracker
from raymlops.serving.batching import MicroBatcher
from raymlops.serving.label_files import LabelWriter
from raymlops.serving.labels import Label
from raymlops.serving.prediction_reader import read_predictions
from raymlops.serving.prediction_table import Record
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store

NOON = datetime(2030, 2, 3, 12, tzinfo=UTC)
ALL = (NOON - timedelta(days=1), NOON + timedelta(days=1))
TASKS = ("regression", "binary", "multiclass")


@dataclass
class World:
    config: Config
    package: ModelPackage
    store: Store
    tracking: Tracking

    def again(self, prediction_id: str, **options: Any) -> Any:
        return replay(self.store, self.tracking, self.config.name, prediction_id, **options)

    def logged(self) -> Any:
        return read_predictions(self.store, self.config.name, *ALL)


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """As the endpoint's protocol gives them: numbers and times as arrays, text as lists, tensors as float32."""
    return {
        "zeta": frame["zeta"].to_numpy(np.float64),
        "alpha": frame["alpha"].to_numpy(np.float64),
        "carrier": [None if pd.isna(value) else value for value in frame["carrier"]],
        "leaves": frame["leaves"].to_numpy("datetime64[us]"),
        "pixels": np.array(frame["pixels"].tolist(), np.float32).reshape(-1, 2, 2),
    }


async def answered(package: ModelPackage, sizes: list[int]) -> list[Record]:
    """Requests of so many rows, all at the same time."""
    batcher = MicroBatcher(package.predict_columns)
    frames = [rows(size, seed=number) for number, size in enumerate(sizes)]
    scored = await asyncio.gather(*(batcher.submit(columns(f), len(f)) for f in frames))
    return [
        Record(NOON.timestamp() + n, f"p{n}", "1", "champion", 0.9, 7, columns(f), s.answer, len(f), 0.01, "ok")
        for n, (f, s) in enumerate(zip(frames, scored, strict=True))
    ]


@pytest.fixture(scope="module", params=TASKS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A registered champion with user code, a log of lone and of shared batches, and one answer that was changed."""
    root = tmp_path_factory.mktemp("replay")
    user, task = user_files(root / "user"), request.param
    config = config_of(task, root / "storage", name="trip", model={"kind": "mlp", "hidden": 128, "layers": 2})
    if task != "regression":
        config = with_user_code(config)
    package = make_package(root / "trip", config, user)
    store = Store(str(root / "storage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with Tracker(config, store, user, NOON) as job:
            evaluation, verdict = judge(config, package)
            logged = publishing.log_package(job, root / "trip", package, rows(3)[package.config.features.raw_columns()])
            publishing.register(job, logged, replace(verdict, blessed=True), evaluation.metrics, "ab" * 32, None)
        where = tracking(None, store)
    records = asyncio.run(answered(package, [1, 1, 3, 1, 2, 1, 1]))
    lone = asyncio.run(answered(package, [4]))
    records.append(lone[0]._replace(prediction_id="lone"))
    forged = {name: values.copy() for name, values in lone[0].outputs.items()}  # type: ignore[union-attr]
    for values in forged.values():
        values[2] = values[2] * 1.01 if values.dtype.kind == "f" else values[2]
    records.append(lone[0]._replace(prediction_id="forged", outputs=forged))
    shadow = lone[0]._replace(prediction_id="p0", version="2", variant="shadow", status="shadow")
    writer = PartWriter(store, "trip", "r1", frozenset())
    for _, part in writer.encode([*records, shadow])[0]:
        writer.write(part)
    return World(config, package, store, where)


def test_every_answer_comes_again_bit_for_bit(world: World) -> None:
    found = [world.again(f"p{n}") for n in range(7)]
    assert all(one.equal and one.close for one in found)
    assert [one.rows for one in found] == [1, 1, 3, 1, 2, 1, 1]
    assert found[0].replayed == found[0].logged
    lone = world.again("lone")
    assert lone.equal and lone.batch == 4


def test_another_number_is_not_explained_away(world: World) -> None:
    forged = world.again("forged", batch_rows=40)
    assert not forged.equal and not forged.close and forged.batch is None
    assert forged.largest > 0


def test_skew_finds_the_row_that_batch_scoring_does_not_give(world: World) -> None:
    report = replay_skew(world.store, world.config, world.logged())
    assert (report.rows, report.different, report.examples, report.unknown) == (18, 1, ["forged"], [])
    other = world.logged()
    version = other.schema.get_field_index("version")
    other = other.set_column(version, "version", [["9"] * other.num_rows])
    assert replay_skew(world.store, world.config, other).unknown == ["9"]


def test_inputs_that_were_not_kept_cannot_be_replayed(world: World) -> None:
    report = replay_skew(world.store, world.config, world.logged().drop_columns(["input.alpha"]))
    assert report.different == report.rows == 18
    assert report.reason is not None and "'alpha': not in the log" in report.reason


def test_a_prediction_is_followed_to_its_run_and_code(world: World) -> None:
    label: Any = {"regression": 12.5, "binary": "yes", "multiclass": "short"}[world.config.task]
    LabelWriter(world.store, "trip").write([Label(label, "lone").row(NOON.timestamp() + 60)])
    assert trace(world.store, world.tracking, "trip", "lone")["label"] is None
    join_labels(world.config, world.store, now=NOON + timedelta(hours=1))
    found = trace(world.store, world.tracking, "trip", "lone")
    assert found["prediction"]["replica"] == "r1" and found["prediction"]["rows"] == 4
    assert found["prediction"]["inputs"]["carrier"] == columns(rows(4))["carrier"]
    assert found["version"]["uri"] == "models:/trip/1" and found["version"]["aliases"] == ["champion"]
    assert found["version"]["weights_sha256"] == world.package.manifest["weights_sha256"]
    assert found["run"]["status"] == "FINISHED" and found["run"]["run_id"]
    assert found["code"]["state"] == "not a git repository"
    assert found["snapshot"] == {"hash": "ab" * 32} and "ab" * 32 in found["notes"][0]
    assert [row["label"] for row in found["label"]] == [label]
    assert found["label"][0]["delay_s"] == 60.0
    status = label_status(world.store, "trip", *ALL, slices=["carrier"])
    assert (status.total.predictions, status.total.labelled, status.total.median_delay_s) == (18, 1, 60.0)
    assert [(c.name, c.labelled) for c in status.versions] == [("1", 1)]
    assert [c.name for c in status.days] == ["2030-02-03"]
    assert sum(c.predictions for c in status.slices["carrier"]) == 18


def test_the_commands_say_it_with_their_exit_codes(world: World) -> None:
    place = ["--name", "trip", "--storage", world.store.uri, "--json"]
    run = CliRunner().invoke
    equal, forged = run(app, ["replay", "lone", *place]), run(app, ["replay", "forged", *place])
    assert (equal.exit_code, forged.exit_code) == (0, 1)
    assert json.loads(equal.stdout)["equal"] and not json.loads(forged.stdout)["equal"]
    traced = run(app, ["trace", "p1", *place])
    assert traced.exit_code == 0 and json.loads(traced.stdout)["version"]["uri"] == "models:/trip/1"
    missing = run(app, ["trace", "nobody", *place])
    assert isinstance(missing.exception, RaymlopsError) and "not in the log of 'trip'" in str(missing.exception)
