"""A registered champion is watched day by day: quiet while nothing changes, and right about what changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import configured, frame

from raymlops.config import Config
from raymlops.monitoring.label_join import join_labels
from raymlops.monitoring.references import references_path
from raymlops.monitoring.report import render_report
from raymlops.monitoring.report_of import report_of
from raymlops.monitoring.signals import Observation, Signal
from raymlops.monitoring.watch import observe
from raymlops.monitoring.watch_state import state_path
from raymlops.registry.backend import tracking
from raymlops.registry.package import ModelPackage
from raymlops.registry.versions import find_version
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.watch import Silent
from raymlops.serving.label_files import LabelWriter
from raymlops.serving.labels import Label
from raymlops.serving.prediction_table import Record
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
FIRST = date(2031, 3, 1)
ROWS = 120


@dataclass
class World:
    """An endpoint's log, written a day at a time, as its replicas and its callers would."""

    config: Config
    base: Path
    package: ModelPackage
    days: int = 0
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store.at(self.config.storage)

    def day(self, *, shift: float = 0.0, wrong: float = 0.0, group: str | None = None) -> None:
        """One more day of requests, labelled the same evening. `shift` moves the inputs, `wrong` the labels."""
        name, start = self.config.name, datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC).timestamp()
        rows = frame(ROWS, seed=1000 + self.days)
        rows["x"] += shift
        labels = rows["y"] + 3 * shift + wrong
        if group is not None:
            rows["group"] = group
        inputs = {"x": rows["x"].to_numpy(), "z": rows["z"].to_numpy(), "group": rows["group"].tolist()}
        answers = self.package.predict_columns(inputs, ROWS)["prediction"]
        records, told = [], []
        for n in range(ROWS):
            at = start + 86_400 * self.days + 600 * n
            one: dict[str, Any] = {"x": inputs["x"][n : n + 1], "z": inputs["z"][n : n + 1]}
            one["group"] = [inputs["group"][n]]
            key = f"{name}-{self.days}-{n}"
            scored = {"prediction": answers[n : n + 1]}
            records.append(Record(at, key, "1", "champion", 0.0, n, one, scored, 1, 0.001, "ok"))
            told.append(Label(float(labels.iloc[n]), prediction_id=key, at=at + 60).row(at + 60))
        writer = PartWriter(self.store, name, f"r{self.days}", frozenset(self.config.serving.log.redact))
        for _, part in writer.encode(records)[0]:
            writer.write(part)
        LabelWriter(self.store, name).write(told)
        self.days += 1

    def look(self, days: float = 0.005) -> Observation:
        """Join and look, so long after the last day of requests has ended."""
        now = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) + timedelta(days=self.days + days)
        join_labels(self.config, self.store, now=now, base=self.base)
        return observe(self.config, self.base, self.store, now=now)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, ModelPackage]:
    base = tmp_path_factory.mktemp("watch")
    rows = frame(4000)
    rows["at"] = pd.Timestamp("2031-01-01") + pd.to_timedelta(np.arange(len(rows)) % 40, unit="D")
    rows.to_parquet(base / "rows.parquet")
    assert run_job(config_of(base, "storage"), base, Silent()).verdict == "blessed"
    where = tracking(None, Store.at(str(base / "storage")))
    return base, find_version(where, "small").load()


def config_of(base: Path, storage: str, **changes: Any) -> Config:
    return configured({"storage": str(base / storage), "data__time_column": "at", **changes})


@pytest.fixture
def world(trained: tuple[Path, ModelPackage], request: pytest.FixtureRequest) -> World:
    """Endpoints share the champion; the log of each test is emptied before."""
    base, package = trained
    made = World(config_of(base, "storage"), base, package)
    for root in ("predictions", "labels", "labelled", "monitoring"):
        made.store.delete_tree(root)
    return made


def signal(seen: Observation, kind: str) -> Signal:
    return next(one for one in seen.signals if one.kind == kind)


def test_nothing_is_raised_while_nothing_changes_and_each_day_is_judged_once(world: World) -> None:
    assert [one.window for one in world.look().signals] == ["", "", ""]
    for _ in range(3):
        world.day()
    first = world.look()
    assert first.alarms == [] and first.rows == 3 * ROWS
    assert first.labelled == 2 * ROWS, "the labels of the last day are due a day later"
    assert signal(first, "drift").window == "2031-03-03" and signal(first, "degradation").window == "2031-03-02"
    again = world.look()
    assert (again.rows, again.labelled) == (0, 0)
    assert [one.reason for one in again.signals] == [one.reason for one in first.signals]
    world.day()
    last = world.look()
    assert (last.rows, last.labelled) == (ROWS, ROWS)
    assert world.look(days=1.005).labelled == ROWS
    assert Observation.from_dict(first.to_dict()) == first


def test_worse_labels_are_a_degradation_that_stays_open_and_no_drift(world: World) -> None:
    for _ in range(6):
        world.day()
    assert world.look().alarms == []
    found = None
    for _ in range(12):
        world.day(wrong=4.0)
        seen = world.look()
        if seen.alarms:
            found = found or seen
    assert found is not None and [one.kind for one in found.alarms] == ["degradation"]
    [alarm], [last] = found.alarms, seen.alarms
    assert last.incident == alarm.incident == f"degradation-1-{alarm.since}"
    assert alarm.since is not None and "2031-03-05" <= alarm.since <= "2031-03-09"
    assert last.since == alarm.since and last.window > alarm.window and last.numbers["alarms"] >= 1
    assert signal(seen, "drift").alarm is False


def test_inputs_that_move_are_drift_and_no_degradation(world: World) -> None:
    for number in range(10):
        world.day(shift=1.5 if number >= 4 else 0.0)
    [alarm] = world.look().alarms
    assert alarm.kind == "drift" and alarm.since is not None and alarm.since >= "2031-03-04"
    assert {row["feature"] for row in alarm.numbers["moved"]} <= {"x", "prediction"}


def test_values_that_training_had_not_break_the_contract(world: World) -> None:
    world.day()
    world.day(group="unheard")
    quality = signal(world.look(), "quality")
    assert quality.alarm and quality.since == "2031-03-02" and "group" in quality.reason


def test_a_look_that_was_killed_before_it_wrote_is_repeated_alike(world: World) -> None:
    for number in range(8):
        world.day(wrong=6.0 if number >= 3 else 0.0)
    first = world.look()
    world.store.delete_file(state_path("small", "1"))  # what a look that died before its last write leaves
    assert world.look() == first
    world.store.delete_file(references_path("small", "1"))
    assert world.look().alarms == first.alarms
    # What was kept by another version of the program, in a form of its own, is made anew.
    world.store.write(state_path("small", "1"), b'{"format": 1, "drift": "base64"}')
    world.store.write(references_path("small", "1"), b'{"settings": "0123", "references": {"format": 1}}')
    assert world.look() == first


def test_the_report_says_what_the_look_found(world: World) -> None:
    for number in range(10):
        world.day(shift=1.5 if number >= 4 else 0.0)
    seen = world.look()
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    data = report_of(world.config, world.base, world.store, since=start, now=start + timedelta(days=10.005))
    assert [one.reason for one in data.signals] == [one.reason for one in seen.signals]
    assert [(day.predictions, day.labelled) for day in data.days] == [(ROWS, ROWS)] * 10
    assert data.limit is not None and all(day.loss is not None and day.estimate is not None for day in data.days)
    assert data.labels.total.share == 1.0 and len(data.drift) == 10 and data.notes == []
    assert [alarm.kind for alarm in data.alarms].count("drift") >= 1
    assert {"(all)", "group=a"} <= {row.name for row in data.slices}
    moved, x = data.moved[0], next(row for row in data.distances if row.feature == "x")
    assert moved.shift is not None and moved.shift > 0.5 and x.psi > 0.2 and x.wasserstein is not None
    assert render_report(data).count("<svg") == 4 + len(data.moved)


def test_what_the_log_does_not_keep_is_not_watched_and_said(world: World) -> None:
    world.config = config_of(world.base, "storage", gate__slices=["group", "id"], serving__log__redact=["z"])
    for _ in range(3):
        world.day()
    seen = world.look()
    assert seen.alarms == [] and signal(seen, "degradation").window == "2031-03-02"
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    data = report_of(world.config, world.base, world.store, since=start, now=start + timedelta(days=3.005))
    assert {row.feature for row in data.distances} == {"x", "group", "prediction"}
    assert {row.name for row in data.slices} == {"(all)", "group=a", "group=b", "group=c"}
    assert [note.partition(" (")[0] for note in data.notes] == ["inputs not watched: z", "slices not watched: id"]
