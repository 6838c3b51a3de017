"""Which steps run again, and why: no Ray, no registry, nothing trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raymlops.config.loading import parse_config
from raymlops.retraining.differences import differences
from raymlops.retraining.facts import Facts
from raymlops.retraining.inputs import (
    PARTS,
    StepName,
    inputs_of,
    job_key,
    key_of,
    own_inputs,
    part_inputs,
    steps_of,
)
from raymlops.retraining.plan import JobRecord, Planned, Record, goes_on_with, make_plan

FLIGHTS = Path(__file__).parents[2] / "configs" / "flights.yaml"
MINUTE = "features.derived.departure_minute.function", "flights_features:minute_of_day"


def facts(**changes: Any) -> Facts:
    """Of the flights job; `changes` are configuration paths with double underscores."""
    raw = yaml.safe_load(FLIGHTS.read_text())
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = raw
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return Facts(
        config=parse_config(raw).model_dump(mode="json", by_alias=True),
        functions={MINUTE[0]: (MINUTE[1], "aa")},
        source={"data/flights.parquet": "f1"},
        contract="c1",
        versions={"raymlops": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
    )


OUTPUTS: dict[StepName, dict[str, Any]] = {
    "snapshot": {"hash": "5a"},
    "search": {"winner": {"values": {"train.learning_rate": 0.01}, "epoch": 3, "weights_sha256": "w1"}},
    "refit": {"weights_sha256": "w2"},
    "gate": {"package_sha256": "p1"},
    "register": {"version": "1"},
    "report": {"result": {}},
}


class Shelf:
    """Records in memory; `gone` says what is broken."""

    def __init__(self) -> None:
        self.records: dict[tuple[StepName, str], Record] = {}
        self.last: dict[StepName, Record] = {}
        self.gone: dict[StepName, str] = {}

    def find(self, step: StepName, key: str) -> Record | None:
        return self.records.get((step, key))

    def latest(self, step: StepName) -> Record | None:
        return self.last.get(step)

    def broken(self, record: Record) -> str | None:
        return self.gone.get(record.step)

    def fill(self, known: Facts, run: str = "r1", upto: StepName = "report") -> Shelf:
        made: dict[StepName, dict[str, Any]] = {}
        for step in steps_of(known.config):
            inputs = inputs_of(step, known, made)
            made[step] = copy.deepcopy(OUTPUTS[step])
            if step == "snapshot":
                made[step]["parts"] = {part: {"inputs": part_inputs(part, known)} for part in PARTS}
            record = Record(step, key_of(inputs), inputs, made[step], run, 1.0, 0.0)
            self.records[step, record.key] = self.last[step] = record
            if step == upto:
                break
        return self


@pytest.fixture
def shelf() -> Shelf:
    return Shelf().fill(facts())


def actions(plan: list[Planned]) -> dict[str, bool]:
    return {planned.step: planned.runs for planned in plan}


def first(plan: list[Planned]) -> Planned:
    return next(planned for planned in plan if planned.runs)


def test_a_job_that_was_never_run_runs_every_step() -> None:
    plan = make_plan(facts(), Shelf())
    assert all(planned.runs for planned in plan) and [p.step for p in plan] == steps_of(facts().config)
    assert plan[0].why == "was not done yet" and not plan[0].told


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rollout__alpha": 0.02},
        {"ray__num_cpus": 1},
        {"storage": "elsewhere"},
        {"data__in_memory_share": 0.0},
        {"monitoring__label_delay": "P3D"},
    ],
)
def test_nothing_runs_when_nothing_that_a_step_reads_has_changed(shelf: Shelf, changes: dict[str, Any]) -> None:
    plan = make_plan(facts(**changes), shelf)
    assert not any(planned.runs for planned in plan), [p.to_dict() for p in plan]
    assert {planned.to_dict()["run"] for planned in plan} == {"r1"}
    assert key_of(own_inputs("search", facts(**changes))) == key_of(own_inputs("search", facts()))


@pytest.mark.parametrize(
    ("changes", "step", "why"),
    [
        ({"train__learning_rate": 0.01}, "search", "train.learning_rate: 0.003 → 0.01"),
        ({"search__trials": 4}, "search", "search.trials: 16 → 4"),
        ({"search__space": {"model.hidden": {"choice": [8]}}}, "search", "search.space.train.learning_rate is gone"),
        ({"features__numeric__distance": {"scale": "robust"}}, "snapshot", "features.numeric.distance.scale: standard"),
        ({"data__split__end": "2013-02-27"}, "snapshot", "data.split.end: 2013-03-01"),
        ({"gate__thresholds__mae__max": 9.0}, "gate", "gate.thresholds.mae.max: 11.0 → 9.0"),
        ({"seed": 8}, "search", "seed: 7 → 8"),
    ],
)
def test_a_changed_key_runs_the_steps_that_read_it(shelf: Shelf, changes: dict[str, Any], step: str, why: str) -> None:
    plan = make_plan(facts(**changes), shelf)
    assert first(plan).step == step and why in first(plan).why
    names = [planned.step for planned in plan]
    assert actions(plan) == {name: number >= names.index(step) for number, name in enumerate(names)}


def test_an_edited_function_an_edited_contract_a_changed_file_and_a_new_version_are_named(shelf: Shelf) -> None:
    known = facts()
    edited = first(make_plan(replace(known, functions={MINUTE[0]: (MINUTE[1], "bb")}), shelf))
    assert (edited.step, edited.why) == ("snapshot", "function flights_features:minute_of_day changed")
    assert edited.parts == {"profile": "unchanged", "contract": "unchanged", "features": edited.why}
    rules = first(make_plan(replace(known, contract="c2"), shelf))
    assert (rules.why, rules.parts["contract"]) == ("the contract changed", "the contract changed")
    rows = first(make_plan(replace(known, source={"data/flights.parquet": "f2"}), shelf))
    assert (rows.why, rows.parts["profile"]) == ("data/flights.parquet changed",) * 2
    upgraded = make_plan(replace(known, versions={**known.versions, "raymlops": "0.2.0"}), shelf)
    assert first(upgraded).why == "raymlops 0.1.0 → 0.2.0" and all(planned.runs for planned in upgraded)
    torch = make_plan(replace(known, versions={**known.versions, "torch": "3.0"}), shelf)
    assert (first(torch).step, first(torch).why) == ("search", "torch 2.13.0 → 3.0")


def test_the_order_of_features_is_an_input(shelf: Shelf) -> None:
    turned = dict(reversed(facts().config["features"]["numeric"].items()))
    assert first(make_plan(facts(features__numeric=turned), shelf)).why == "the order of features.numeric changed"


def test_what_is_gone_or_judged_against_another_champion_is_made_again(shelf: Shelf) -> None:
    shelf.gone = {"gate": "champion is version 4 now"}
    plan = make_plan(facts(), shelf)
    assert (first(plan).step, first(plan).why) == ("gate", "champion is version 4 now")
    assert goes_on_with(None, plan, None) is None, "another verdict is another run's"
    shelf.gone = {"register": "version 1 is not registered any more"}
    plan = make_plan(facts(), shelf)
    assert first(plan).step == "register"
    assert goes_on_with(None, plan, None) == "r1", "its verdict stands, so the run is opened again"


def test_a_source_that_has_to_be_read_is_read_and_the_rest_is_decided_then(shelf: Shelf) -> None:
    sql = {"kind": "sql", "query": "select 1", "connection": "db:connect"}
    known = replace(facts(data__source=sql), source=None)
    shelf.fill(known)
    plan = make_plan(known, shelf)
    assert first(plan).step == "snapshot" and "has to be read" in first(plan).why
    assert plan[1].why == "follows snapshot, unless that gives the same as before"
    after = make_plan(known, shelf, made={"snapshot": OUTPUTS["snapshot"]})
    assert [planned.step for planned in after] == steps_of(known.config)[1:]
    assert not any(planned.runs for planned in after)
    going_on = make_plan(known, shelf, own="r1")
    assert not any(planned.runs for planned in going_on), "the run that goes on has read it"


def test_from_runs_a_step_and_what_follows_unless_this_run_did_it_already(shelf: Shelf) -> None:
    plan = make_plan(facts(), shelf, forced="refit")
    assert actions(plan) == {
        "snapshot": False, "search": False, "refit": True, "gate": True, "register": True, "report": True
    }  # fmt: skip
    assert {planned.why for planned in plan if planned.runs} == {"asked for by --from refit"}
    half = Shelf().fill(facts()).fill(facts(), run="r2", upto="refit")
    assert next(p.step for p in make_plan(facts(), half, forced="refit", own="r2") if p.runs) == "gate"
    assert goes_on_with(None, plan, "refit") is None


def job(known: Facts, shelf: Shelf, *begun: StepName, **changes: Any) -> JobRecord:
    keys = {planned.step: planned.key for planned in make_plan(known, shelf)}
    started = {step: keys[step] or "" for step in begun}
    made = JobRecord(job_key(known), "r9", "running", 0.0, known.config, "/", started=started)
    return replace(made, **changes)


def test_a_killed_run_goes_on_unless_what_it_trains_with_has_changed() -> None:
    known = facts()
    shelf = Shelf().fill(known, run="r9", upto="snapshot")
    killed = job(known, shelf, "search")
    plan = make_plan(known, shelf, own="r9")
    assert goes_on_with(killed, plan, None) == "r9"
    assert goes_on_with(replace(killed, status="stopped"), plan, None) == "r9"
    assert goes_on_with(replace(killed, status="failed"), plan, None) is None
    assert goes_on_with(killed, plan, "search") is None, "somebody wants the search anew"
    assert goes_on_with(replace(killed, forced="search"), plan, "search") == "r9"

    edited = replace(known, functions={MINUTE[0]: (MINUTE[1], "bb")})
    assert goes_on_with(killed, make_plan(edited, shelf), None) is None, "the snapshot may become another"
    other = make_plan(edited, shelf, made={"snapshot": {"hash": "6b"}})
    assert goes_on_with(killed, other, None) is None
    same = make_plan(edited, shelf, made={"snapshot": {"hash": "5a"}})
    assert goes_on_with(killed, same, None) == "r9", "the function's edit changed no value"
    assert goes_on_with(job(known, Shelf()), make_plan(edited, Shelf()), None) == "r9", "nothing was trained yet"


def test_retrainings_are_jobs_of_their_own_and_checkpoints_are_not_inputs() -> None:
    known = facts()
    assert job_key(known) != job_key(replace(known, tags={"raymlops.retraining": "1"}))
    assert job_key(known) != job_key(facts(seed=9))
    assert job_key(known) == job_key(facts(rollout__alpha=0.02, ray__num_cpus=1))
    often = replace(known, config={**known.config, "train": {**known.config["train"], "checkpoint": {"every": 1}}})
    assert job_key(often) == job_key(known)
    assert key_of(own_inputs("search", often)) == key_of(own_inputs("search", known))


def test_when_workers_are_added_makes_no_other_job() -> None:
    one, other, more = (
        facts(train__workers={"min": 1, "max": most, "check_every": every})
        for most, every in ((2, 60), (2, 1), (3, 60))
    )
    assert job_key(one) == job_key(other) != job_key(more)
    assert key_of(own_inputs("search", one)) == key_of(own_inputs("search", other))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
groups = st.dictionaries(
    st.sampled_from(["config", "function", "source", "version", "start", "rules"]),
    st.dictionaries(st.text("abc", min_size=1, max_size=2), plain, max_size=3),
)


@given(groups, groups)
def test_inputs_with_another_key_differ_in_something_that_is_told(before: Any, now: Any) -> None:
    filled = {group: now.get(group, {}) for group in before}
    told = differences(before, filled)
    assert differences(before, before) == []
    if key_of(before) == key_of(filled):
        assert told == []
    elif before != filled:
        assert told
