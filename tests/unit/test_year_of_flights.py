"""Days are permuted whole, nothing is known before its label, calendars are kept, and the report is complete."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.year_lib.endpoint import Endpoint
from benchmarks.year_lib.flights import BEGIN, END, configuration, flights, known, midnight, permuted, write_source
from benchmarks.year_lib.plot import smoothed
from benchmarks.year_lib.policies import POLICIES, RAYMLOPS
from benchmarks.year_lib.replay import summary
from benchmarks.year_of_flights import report
from raymlops.config.tree import Config
from raymlops.serving.label_reader import read_labels
from raymlops.serving.prediction_reader import read_predictions
from raymlops.store import Store


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return flights(every=20)


def configured(folder: Path) -> Config:
    return configuration("flights-x", folder / "storage", folder / "source", 3, {"window": {"mode": "sliding"}})


def test_permuted_days_stay_whole(rows: pd.DataFrame) -> None:
    moved = permuted(rows, 1)
    assert moved.equals(permuted(rows, 1)) and not moved.equals(permuted(rows, 2))
    assert sorted(moved["day"].unique()) == sorted(rows["day"].unique()) and moved["time_hour"].is_monotonic_increasing

    def contents(frame: pd.DataFrame) -> dict[date, list[tuple[object, ...]]]:
        hours = frame.assign(hour=frame["time_hour"].dt.hour)
        columns = ["hour", "carrier", "flight", "origin", "dest", "air_time"]
        return {day: sorted(map(tuple, part[columns].values)) for day, part in hours.groupby("day")}

    before, after = contents(rows), contents(moved)
    assert sorted(map(str, before.values())) == sorted(map(str, after.values()))
    assert sum(before[day] == after[day] for day in before) < 5


def test_a_day_is_known_a_day_after_its_end(rows: pd.DataFrame) -> None:
    assert known(rows, date(2013, 3, 1))["day"].max() == date(2013, 2, 27)


def test_calendars_are_kept() -> None:
    days = [BEGIN + timedelta(days=n) for n in range(1, (END - BEGIN).days)]
    looks = {policy.name: sum(map(policy.due, days)) for policy in POLICIES}
    assert looks == {"never": 0, "monthly": 9, "weekly": 43, RAYMLOPS: len(days)}


def test_the_configuration_ends_where_labels_end(tmp_path: Path) -> None:
    config = configured(tmp_path)
    split = config.data.split
    assert split.by == "time" and str(split.end) == "2013-02-28 00:00:00" and config.search.trials == 3
    assert config.retraining.window.mode == "sliding" and config.retraining.window.days == 28
    for policy in POLICIES:
        made = configuration(policy.name, tmp_path, tmp_path, 1, policy.retraining)
        assert made.retraining.triggers.degradation == (policy.name in ("never", RAYMLOPS))


def test_what_is_written_is_what_the_log_and_the_labels_say(rows: pd.DataFrame, tmp_path: Path) -> None:
    config, day = configured(tmp_path), rows[rows["day"] == BEGIN]
    store = Store.at(config.storage)
    endpoint = Endpoint(config, store)
    endpoint.log(day, day["air_time"].to_numpy(float) + 1.0, "7")
    endpoint.label(day, midnight(BEGIN + timedelta(days=2)))
    logged = read_predictions(store, config.name, midnight(BEGIN), midnight(BEGIN + timedelta(days=1))).to_pandas()
    labels = read_labels(store, config.name, midnight(BEGIN), midnight(BEGIN + timedelta(days=3))).to_pandas()
    both = logged.merge(labels, on="prediction_id")
    assert len(both) == len(day) and (both["output.prediction"] - both["number"]).eq(1.0).all()
    assert set(both["version"]) == {"7"} and set(logged["input.carrier"]) == set(day["carrier"])
    write_source(day, tmp_path / "source", "day")
    assert "day" not in pd.read_parquet(tmp_path / "source")


def test_errors_are_of_flights_and_each_alarm_counts_once() -> None:
    days = [{"day": "2013-03-01", "rows": 1, "error": 4.0}, {"day": "2013-03-02", "rows": 3, "error": 8.0}]
    alarm = {"kind": "degradation", "incident": "a", "since": "2013-02-20", "reason": "worse"}
    quiet = {"day": "2013-03-01", "alarms": [], "retraining": None}
    seen = {"day": "2013-03-02", "alarms": [{**alarm, "day": "2013-03-02"}], "retraining": None}
    again = {
        "day": "2013-03-03",
        "alarms": [{**alarm, "day": "2013-03-03"}],
        "retraining": {"id": "r1", "outcome": "promoted"},
    }
    found = summary(days, [quiet, seen, again])
    assert found["mae"] == 7.0 and [a["day"] for a in found["alarms"]] == ["2013-03-02"]
    assert found["retrainings"] == [{"id": "r1", "outcome": "promoted", "day": "2013-03-03"}]
    assert smoothed(days) == [4.0, 7.0]


def test_the_report_has_every_table_and_target() -> None:
    def row(name: str, mae: float, made: int) -> dict[str, object]:
        done = [{"id": f"r{n}", "day": "2013-06-01", "outcome": "promoted", "cause": "follow_up"} for n in range(made)]
        alarms = [{"kind": "degradation", "incident": "a", "day": "2013-05-08", "since": None, "reason": "worse"}]
        return {"policy": name, "shown": name, "mae": mae, "retrainings": done, "alarms": alarms, "seconds": 1.0}

    policies = [row("never", 11.0, 0), row("monthly", 8.0, 9), row(RAYMLOPS, 8.1, 3)]
    quiet = [{"seed": 1, "days": 306, "mae": 8.0, "alarms": []}]
    made = report({"policies": policies, "stationary": quiet, "days": 306})
    assert [target.met for target in made.targets] == [True, True, True] and len(made.tables) == 3
    text = made.markdown()
    assert (
        "retraining promoted" in text
        and "cause: follow_up" in text
        and "alarm (degradation)" in text
        and "1.01" in text
    )
    false = [{**quiet[0], "alarms": [{"kind": "drift", "since": None, "reason": "moved"}]}]
    assert not report({"policies": policies, "stationary": false, "days": 306}).targets[2].met
