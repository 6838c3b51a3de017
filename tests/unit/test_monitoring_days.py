"""From the prediction log to verdicts: every day is judged once, whatever inputs are called and however looks fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_cases import Endpoint, config_of

from raymlops.config.monitoring import LabelMonitor
from raymlops.config.tree import Config
from raymlops.data.contract import ColumnContract, Contract
from raymlops.errors import ConfigError
from raymlops.monitoring import Counts, Reference, layout_of_rows
from raymlops.monitoring import day_rows as module
from raymlops.monitoring.day_rows import PartsSeen, days_of_column, logged_rows
from raymlops.monitoring.label_coverage import label_problems
from raymlops.monitoring.label_join import join_labels
from raymlops.monitoring.quality_days import DayQuality
from raymlops.monitoring.references import References, answer_name, watched_rows
from raymlops.monitoring.verdicts import Judge
from raymlops.monitoring.watch import Look
from raymlops.monitoring.watch_state import WatchState, state_path
from raymlops.serving.labels import Label
from raymlops.serving.prediction_table import HEAD, Record
from raymlops.store import Store

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
OURS = [name for name in HEAD.names if name not in ("row", "time", "prediction_id")]


def record(at: datetime, identity: str, inputs: dict[str, Any], version: str = "1", answer: float = 1.0) -> Record:
    columns = {name: [value] for name, value in inputs.items()}
    return Record(at.timestamp(), identity, version, "champion", 1.0, None, columns, {"prediction": [answer]}, 1, 0.01,
                  "ok")  # fmt: skip


def traffic(endpoint: Endpoint, day: int, rows: int, version: str = "1") -> None:
    found = [record(FIRST + day * DAY + n * timedelta(hours=1), f"{day}-{n}-{version}", {"distance": 1.0, "zone": "a"},
                    version) for n in range(rows)]  # fmt: skip
    if found:
        endpoint.predicted(found)


def nothing_compared() -> References:
    return References(None, None, 1.0, {}, [])


def look(config: Config, store: Store, now: datetime, references: References, contract: Contract | None = None) -> Any:
    """One look: the state is read, what is new is judged, and the state is written."""
    state = WatchState.read(store, config.name, "1", "settings")
    judge = Judge(config, store, references, contract, state)
    rows = Look(config, store, "1", now).inputs(state, judge)
    judge.done()
    state.write(store, config.name, "1")
    return state, rows


def quality(**limits: Any) -> dict[str, Any]:
    return {"monitoring": {"quality": {"skew_rows": 0, **limits}}}


def test_inputs_may_be_called_like_columns_of_the_log(tmp_path: Path) -> None:
    names = ["prediction", "weight", "latency", "time", "row"]
    texts = [name for name in OURS if name not in names]
    config = config_of(
        features={"numeric": {name: {} for name in names}, "categorical": {name: {} for name in texts}}, **quality()
    )
    draw = np.random.default_rng(0)

    def rows(n: int, shift: float = 0.0) -> dict[str, Any]:
        numbers = {name: draw.normal(size=n) + shift * (name == "weight") for name in names}
        return numbers | {name: draw.choice(["a", "b"], n) for name in texts}

    answer = answer_name([*names, *texts])
    assert answer == "output.prediction"
    known = watched_rows([*names, *texts, answer], answer, pa.table(rows(4200)), draw.normal(size=4200))
    times = np.datetime64("2026-01-01", "us") + (np.arange(4200) // 300).astype("timedelta64[D]")
    reference = Reference.of_counts(Counts.by_day(layout_of_rows(known), known, times))
    references = References(reference, None, 1.0, {}, [], answer)
    contract = Contract(columns={name: ColumnContract(kind="number") for name in names})
    endpoint = Endpoint(tmp_path)
    for day in range(8):
        one = rows(300, shift=1.0 if day >= 4 else 0.0)
        endpoint.predicted([record(FIRST + day * DAY + n * timedelta(minutes=1), f"{day}-{n}",
                                   {name: values[n].item() for name, values in one.items()}, answer=draw.normal())
                            for n in range(300)])  # fmt: skip
    state, seen = look(config, endpoint.store, FIRST + 4.1 * DAY, references, contract)
    assert seen == 1200 and state.incidents == {} and state.latest["drift"]["window"] == "2026-03-04"
    state, _ = look(config, endpoint.store, FIRST + 8.1 * DAY, references, contract)
    assert {row["feature"] for row in state.incidents["drift"].numbers["moved"]} == {"weight"}
    assert state.latest["quality"]["reason"] == "rows keep the contract until 2026-03-08"


def test_a_silent_day_is_an_outage_once_the_endpoint_has_answered(tmp_path: Path) -> None:
    config, endpoint = config_of(**quality(min_rows=5, max_age="P2D")), Endpoint(tmp_path)
    state, _ = look(config, endpoint.store, FIRST + 3 * DAY, nothing_compared())
    assert state.incidents == {} and state.days == {}, "nobody has asked yet"
    traffic(endpoint, 3, 10)
    traffic(endpoint, 4, 10)
    assert look(config, endpoint.store, FIRST + 5.1 * DAY, nothing_compared())[0].incidents == {}
    state, _ = look(config, endpoint.store, FIRST + 6.1 * DAY, nothing_compared())
    assert state.incidents["quality"].reason == "(rows): volume: 0 rows, expected at least 5 rows"
    state, _ = look(config, endpoint.store, FIRST + 8.1 * DAY, nothing_compared())
    traffic(endpoint, 8, 10)
    for _ in range(2):
        state, _ = look(config, endpoint.store, FIRST + 9.1 * DAY, nothing_compared())
    incident = state.incidents["quality"]
    assert (incident.alarms, incident.first_window, incident.last_window) == (3, "2026-03-06", "2026-03-08")
    assert incident.quiet_days == 1
    assert "freshness: 2 days, 15:00:00 old" in state.days["2026-03-07"]["quality"][1]


def test_days_without_predictions_are_no_news_unless_somebody_wants_some(tmp_path: Path) -> None:
    config, endpoint = config_of(**quality()), Endpoint(tmp_path)
    traffic(endpoint, 0, 3)
    state, _ = look(config, endpoint.store, FIRST + 20 * DAY, nothing_compared())
    assert state.incidents == {} and state.inputs_until == "2026-03-02"


def test_volume_is_of_all_versions_and_a_champion_that_nobody_reached_is_missed(tmp_path: Path) -> None:
    config, endpoint = config_of(**quality(min_rows=5)), Endpoint(tmp_path)
    for day in range(3):
        traffic(endpoint, day, 8, version="0")
    traffic(endpoint, 2, 2)
    state, rows = look(config, endpoint.store, FIRST + 3.1 * DAY, nothing_compared())
    assert rows == 2 and state.incidents == {} and list(state.days) == ["2026-03-03"]
    endpoint.store.delete_tree(f"predictions/{config.name}/date=2026-03-03")
    endpoint.store.delete_file(state_path(config.name, "1"))
    state, _ = look(config, endpoint.store, FIRST + 3.1 * DAY, nothing_compared())
    assert state.incidents["quality"].first_window == "2026-03-03"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0, 3, 9]), min_size=3, max_size=7), st.lists(st.floats(0, 8), max_size=4))
def test_when_looks_happen_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], looks: list[float]
) -> None:
    config, endpoint = config_of(**quality(min_rows=5)), Endpoint(tmp_path_factory.mktemp("days"))
    for day, count in enumerate(rows):
        traffic(endpoint, day, count)
    for at in sorted(looks):
        look(config, endpoint.store, FIRST + at * DAY, nothing_compared())
    often, _ = look(config, endpoint.store, FIRST + 8.1 * DAY, nothing_compared())
    endpoint.store.delete_file(state_path(config.name, "1"))
    once, _ = look(config, endpoint.store, FIRST + 8.1 * DAY, nothing_compared())
    assert asdict(often) == asdict(once)
    begun = next((day for day, count in enumerate(rows) if count), None)
    silent = 0 if begun is None else sum(count < 5 for count in [*rows, *[0] * (8 - len(rows))][begun:])
    assert (once.incidents["quality"].alarms if silent else 0) == silent


def test_a_column_that_the_log_does_not_keep_breaks_no_rule(tmp_path: Path) -> None:
    config = config_of(serving={"log": {"redact": ["zone"]}}, **quality())
    contract = Contract(columns={"zone": ColumnContract(kind="string", nullable=False),
                                 "distance": ColumnContract(kind="number", max=5)})  # fmt: skip
    judge = DayQuality(config, Store(str(tmp_path)), contract)
    assert judge.problems("2026-03-01", 1, pa.table({"input.distance": [1.0]}), FIRST) == []
    [found] = judge.problems("2026-03-01", 1, pa.table({"input.distance": [9.0]}), FIRST)
    assert found.startswith("distance: max:")


def test_monitored_columns_have_to_be_inputs() -> None:
    with pytest.raises(
        ConfigError, match="columns: found fair, far, expected columns that the features read: distance, zone"
    ):
        config_of(monitoring={"drift": {"columns": ["distance", "fair", "far"]}})
    with pytest.raises(
        ConfigError, match="time: found 'when', expected 'prediction' or a column that the features read"
    ):
        config_of(monitoring={"time": "when"})
    with pytest.raises(ConfigError, match=r"time: 'zone' is not logged, because serving\.log\.redact names it"):
        config_of(monitoring={"time": "zone"}, serving={"log": {"redact": ["zone"]}})


def by_column(endpoint: Endpoint, part: int, days: Sequence[int | None]) -> None:
    """Predictions made on day `part` about these days."""
    made = [record(FIRST + part * DAY + n * timedelta(minutes=1), f"{part}-{n}-{day}",
                   {"zone": None if day is None else (FIRST + day * DAY).date().isoformat(), "distance": 1.0})
            for n, day in enumerate(days)]  # fmt: skip
    endpoint.predicted(made)


def test_days_of_a_column_are_judged_once_and_what_comes_later_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, endpoint, read = config_of(monitoring={"time": "zone"}), Endpoint(tmp_path), []
    seen = PartsSeen()

    def days(since: int, until: int, closed: int) -> dict[str, int]:
        def logged(*args: Any) -> pa.Table:
            read.append(args[2].date().isoformat())
            return logged_rows(*args)

        read.clear()
        stored = sorted(name.removeprefix("date=") for name in endpoint.store.list("predictions/fares"))
        bounds = (module.later("2026-03-01", n) for n in (since, until, closed))
        first, last, whole = bounds
        found = days_of_column(endpoint.store, config, logged, stored, first if since else "", last, seen, whole)
        return {day: table.num_rows for day, table in found}

    by_column(endpoint, 0, [0, 0, 1])
    by_column(endpoint, 1, [0, 1, None, 9])
    assert days(0, 2, 2) == {"2026-03-01": 3, "2026-03-02": 2}
    assert seen == PartsSeen("2026-03-03", {"2026-03-02": 6 - 3}, late=1)  # one is about a day yet to come
    by_column(endpoint, 2, [1, 2, 2])
    assert days(2, 3, 3) == {"2026-03-03": 2} and read == ["2026-03-02", "2026-03-03"]
    assert seen.late == 2 and set(seen.open) == {"2026-03-02"}
    for _ in range(3):
        assert days(3, 3, 3) == {} and seen.late == 2 and read == ["2026-03-02"]
    by_column(endpoint, 9, [9])
    assert days(3, 10, 10) == {"2026-03-10": 2} and seen == PartsSeen("2026-03-11", {}, late=2)
    by_column(endpoint, 10, [5000])  # so far in the future that it is waited for no longer than OPEN_DAYS
    assert days(10, 12, 12) == {} and set(seen.open) == {"2026-03-11"}
    assert days(80, 80, 80) == {} and seen.open == {}


def test_a_state_of_another_form_is_made_anew_and_damage_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    WatchState("settings", inputs_until="2026-03-05").write(store, "fares", "1")
    assert WatchState.read(store, "fares", "1", "settings").inputs_until == "2026-03-05"
    store.write(state_path("fares", "1"), b'{"format": 1, "drift": "of another time"}')
    assert WatchState.read(store, "fares", "1", "settings") == WatchState("settings")


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        ({"rows": 200, "labelled": 181}, []),
        ({"rows": 200, "labelled": 172}, []),  # 86 %: too few, but chance may do that
        ({"rows": 200, "labelled": 150}, ["(all): 150 of 200 predictions have a label (75.0%), expected 90.0%"]),
        ({"rows": 200}, ["(all): 0 of 200 predictions have a label (0.0%), expected 90.0%"]),
        (
            {"rows": 200, "labelled": 190, "rows_of": {"zone=a": 10, "zone=b": 2}, "labelled_of": {"zone=b": 0}},
            ["zone=a: 0 of 10 predictions have a label (0.0%), expected 90.0%"],
        ),
        (
            {"rows": 40, "labelled": 40, "delay_s": 7300.0},
            ["delay: 90% of labels came within 2:01:40, expected within 2:00:00"],
        ),
        ({"rows": 40, "labelled": 40, "delay_s": 7100.0}, []),
    ],
)
def test_labels_that_are_missing_or_late_are_named(line: dict[str, Any], problems: list[str]) -> None:
    found = label_problems(line, LabelMonitor(min_share=0.9, max_delay=timedelta(hours=2)))
    assert found == problems


def test_missing_labels_are_an_incident_when_they_are_due(tmp_path: Path) -> None:
    config = config_of(monitoring={"labels": {"min_share": 0.9, "max_delay": "PT2H"}, "quality": {"enabled": False}})
    endpoint = Endpoint(tmp_path)
    for day in range(4):
        traffic(endpoint, day, 24)
    for day, hours in ((0, 1), (1, 3)):  # none for the third day and those after it
        told = [Label(1.0, f"{day}-{n}-1", at=(FIRST + day * DAY + (n + hours) * timedelta(hours=1)).timestamp())
                for n in range(24)]  # fmt: skip
        endpoint.labelled(told, FIRST + (day + 1) * DAY + timedelta(hours=4))
    kinds = []
    for day in range(2, 6):
        now = FIRST + (day + 0.5) * DAY
        join_labels(config, endpoint.store, now=now)
        state = WatchState.read(endpoint.store, config.name, "1", "settings")
        judge, look = (
            Judge(config, endpoint.store, nothing_compared(), None, state),
            Look(config, endpoint.store, "1", now),
        )
        look.inputs(state, judge)
        look.losses(state, judge)
        state.write(endpoint.store, config.name, "1")
        kinds.append(state.incidents["labels"].alarms if "labels" in state.incidents else 0)
    assert kinds == [0, 1, 2, 3] and state.incidents["labels"].first_window == "2026-03-02"
    assert state.days["2026-03-02"]["labels"] == ["delay: 90% of labels came within 3:00:00, expected within 2:00:00"]
    assert "0 of 24 predictions have a label" in state.days["2026-03-03"]["labels"][0]
    assert state.signal("labels", "1").incident == "labels-1-2026-03-02"


def test_an_incident_of_single_days_ends_with_a_good_week_and_says_what_was_wrong_last() -> None:
    state = WatchState("settings")
    state.alarmed("quality", "2026-03-01", "2026-03-01", "a unit changed", {})
    state.judged("quality", "2026-03-02", "fine", {})
    state.alarmed("quality", "2026-03-03", "2026-03-03", "nobody asked", {})
    assert state.signal("quality", "1").incident == "quality-1-2026-03-01"
    assert state.signal("quality", "1").reason == "nobody asked"
    for day in range(4, 11):
        assert state.signal("quality", "1").alarm
        state.judged("quality", f"2026-03-{day:02d}", "fine", {})
    assert not state.signal("quality", "1").alarm
    state.alarmed("quality", "2026-03-11", "2026-03-11", "nobody asked", {})
    assert state.signal("quality", "1").incident == "quality-1-2026-03-11"
