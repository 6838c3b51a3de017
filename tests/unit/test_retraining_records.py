"""Records of steps and jobs in a store, and what makes a record worthless."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from snapshot_cases import config

from raymlops.errors import IntegrityError
from raymlops.registry.backend import tracking
from raymlops.retraining.inputs import StepName
from raymlops.retraining.plan import JobRecord
from raymlops.retraining.records import Evidence, Records
from raymlops.store import Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(Store(str(tmp_path)), "trips")


def broken(
    records: Records, step: StepName, output: dict[str, Any], *, own: str | None = None, run: str = "r1", **changes: Any
) -> str | None:
    record = records.done(step, {"config": {}}, output, run, 1.0)
    where = tracking(None, records.store)
    return Evidence(records, config(**changes), where, NOW, own).broken(record)


def test_a_step_is_found_by_its_inputs_and_the_last_one_without(records: Records) -> None:
    first = records.done("search", {"config": {"seed": 1}}, {"trials": []}, "r1", 2.0)
    second = records.done("search", {"config": {"seed": 2}}, {"trials": []}, "r2", 2.0)
    assert records.find("search", first.key) == first and records.find("search", second.key) == second
    assert records.latest("search") == second and records.find("search", "0") is None and records.latest("gate") is None
    for damaged in (b"{half", b"[]", b"{}"):
        records.store.write(f"runs/trips/steps/search/{first.key}.json", damaged)
        with pytest.raises(IntegrityError, match=f"{first.key}.json: is not a record"):
            records.find("search", first.key)


def test_the_jobs_of_a_model_are_listed_with_how_far_they_came(records: Records) -> None:
    running = JobRecord("k1", "r1", "running", 1.0, {}, "/base", started={"search": "s1"})
    records.write_job(running)
    records.write_job(JobRecord("k2", "r2", "done", 2.0, {}, "/base"))
    assert list(records.jobs()) == [running, JobRecord("k2", "r2", "done", 2.0, {}, "/base")]
    assert [job.unfinished for job in records.jobs()] == [True, False]
    records.write_job(replace(running, status="failed"))
    assert records.job("k1") == replace(running, status="failed") and records.job("k3") is None


def test_what_a_step_made_has_to_be_there(records: Records) -> None:
    store = records.store
    snapshot = {"hash": "ab" * 32, "columns": dict.fromkeys(config().used_columns(), "number"), "fresh_until": None}
    assert broken(records, "snapshot", snapshot) == f"snapshot {'ab' * 6} is gone"
    store.write(f"snapshots/{'ab' * 32}/manifest.json", b"{}")
    assert broken(records, "snapshot", snapshot) is None
    assert "'weather'" in str(broken(records, "snapshot", snapshot, gate={"slices": ["weather"]}))
    old = {**snapshot, "fresh_until": (NOW - timedelta(hours=1)).isoformat()}
    assert "too old since 2026-02-28T23:00" in str(broken(records, "snapshot", old))
    assert broken(records, "refit", {"path": "runs/trips/r1/refit"}) == "checkpoint runs/trips/r1/refit is gone"
    store.write("runs/trips/r1/refit/checkpoint.json", b"{}")
    assert broken(records, "refit", {"path": "runs/trips/r1/refit"}) is None
    gate = {"package": "runs/trips/r1/package", "champion": None}
    assert broken(records, "gate", gate) == "package runs/trips/r1/package is gone"
    store.write("runs/trips/r1/package/manifest.json", b"{}")
    assert broken(records, "gate", gate) is None
    assert broken(records, "gate", {**gate, "champion": "3"}) == "there is no champion any more"


def test_trials_whose_process_died_are_tried_again_only_by_the_run_that_got_no_further(records: Records) -> None:
    trials = {"trials": [{"died": True}, {"died": False}], "winner": {"path": "runs/trips/r1/trial-002"}}
    assert broken(records, "search", trials) is None
    assert broken(records, "search", trials, own="r1") == "1 trial(s) lost their process"
    records.done("refit", {"config": {}}, {}, "r1", 1.0)
    assert broken(records, "search", trials, own="r1") is None
    assert broken(records, "search", trials, search={"refit": False}) == "checkpoint runs/trips/r1/trial-002 is gone"
