"""A job that is killed anywhere goes on where it was, in the same run, and nothing is done or recorded twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import frame
from job_world import POINTS, job
from killing import world

from raymlops.config.tree import Config
from raymlops.lock import Held, hold
from raymlops.registry.ancestry import lineage_of
from raymlops.registry.backend import tracking
from raymlops.registry.catalog import list_models, list_runs
from raymlops.retraining.desk import Desk, Origin
from raymlops.retraining.pipeline import plan_job, run_job
from raymlops.retraining.records import Records
from raymlops.retraining.reproduction import reproduce
from raymlops.retraining.watch import Silent
from raymlops.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
STEPS = ["snapshot", "search", "refit", "gate", "register", "report"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    frame().to_parquet(folder / "rows.parquet")
    return folder


def nested(config: Config, run_id: str) -> list[Any]:
    client = tracking(None, Store(config.storage)).client
    [experiment] = [e.experiment_id for e in client.search_experiments() if e.name == config.name]
    found: list[Any] = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return found


def check_once(config: Config, run_id: str) -> None:
    """One run holds everything, once."""
    [run] = list_runs(config.storage, None)
    assert (run.run_id, run.status, run.verdict, run.version) == (run_id, "FINISHED", "blessed", "1")
    [model] = list_models(config.storage, None)
    assert (model.version, model.aliases, model.run_id) == ("1", ["champion"], run_id)
    trials = nested(config, run_id)
    assert sorted(trial.info.run_name for trial in trials) == ["trial-001", "trial-002", "trial-003"]
    assert {trial.info.status for trial in trials} == {"FINISHED"}
    client = tracking(None, Store(config.storage)).client
    stored = client.get_run(run_id)
    for key in stored.data.metrics:
        assert len(client.get_metric_history(run_id, key)) == 1, key
    for trial in trials:
        history = [point.step for point in client.get_metric_history(trial.info.run_id, "metric")]
        assert len(history) == len(set(history)) > 0
    [output] = stored.outputs.model_outputs
    assert client.get_logged_model(output.model_id).status == "READY"
    assert len(stored.inputs.dataset_inputs) == 1
    [record] = Records(Store(config.storage), config.name).jobs()
    assert (record.run_id, record.status) == (run_id, "done")


@pytest.fixture(scope="module")
def killed(base: Path, ray_session: None) -> tuple[str, str]:
    """Run and weights of a job whose process was killed at every point in turn, and then left to finish."""
    done = world("job_world.py", str(base), "at", *POINTS, "never")
    *deaths, told, end = done.stdout.splitlines()
    assert deaths == [f"{point}: killed" for point in POINTS], done.stderr[-3000:]
    assert end == "never: ended 0", done.stderr[-3000:]
    _, run_id, weights, reused = told.split()
    assert reused.split(",") == STEPS, "what was left to do was to say so"
    return run_id, weights


def test_one_run_holds_everything_once(base: Path, killed: tuple[str, str]) -> None:
    check_once(job(base), killed[0])


def test_the_weights_are_those_of_an_undisturbed_run(base: Path, killed: tuple[str, str]) -> None:
    undisturbed = run_job(job(base, storage=str(base / "other")), base, Silent())
    assert undisturbed.weights_sha256 == killed[1]
    assert undisturbed.reused == []


def test_the_version_is_traced_and_its_weights_come_out_again(base: Path, killed: tuple[str, str]) -> None:
    store = Store(job(base).storage)
    found = lineage_of(tracking(None, store), store, "small/1")
    doubtful = {link.name for link in found.links for check in link.checks if check.status != "verified"}
    assert found.intact and doubtful <= {"code"}
    assert reproduce(tracking(None, store), store, killed[0], Silent()).exact


def test_twenty_kills_at_random_moments_change_nothing(base: Path) -> None:
    """More than a minute: the points above are moments that somebody thought of, and these are twenty others."""
    seed = str(random.SystemRandom().randrange(10**6))
    done = world("job_world.py", str(base), "at-random", seed, "20")
    print(f"seed {seed}\n{done.stdout}{done.stderr[-6000:]}")
    assert done.returncode == 0
    undisturbed, *others = [line.split() for line in done.stdout.splitlines()]
    assert undisturbed[0] == "undisturbed" and others
    for storage, run_id, weights, *_ in others:
        check_once(job(base, storage=str(base / storage)), run_id)
        assert weights == undisturbed[2], storage


NOTHING_TO_DO = """
import sys
from raymlops.cli import app

for more in (["--dry-run"], ["--dry-run", "--set", "train.learning_rate=0.5"], []):
    try:
        app(["run", sys.argv[1], "--json", *more], standalone_mode=False)
    except SystemExit as end:
        assert end.code == 0
assert not {"ray", "torch"} & sys.modules.keys()
"""


def test_a_run_without_changes_gives_the_earlier_result_and_starts_nothing(
    base: Path, killed: tuple[str, str], tmp_path: Path
) -> None:
    config = job(base)
    raw = config.model_dump(mode="json", by_alias=True)
    (base / "small.yaml").write_text("# a comment\n" + yaml.safe_dump(raw, sort_keys=False))
    before = {path: path.stat().st_mtime_ns for path in (base / "storage").rglob("*.json")}
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_DO, str(base / "small.yaml")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    unchanged, changed, result = map(json.loads, done.stdout.splitlines())
    assert [step["action"] for step in unchanged["steps"]] == ["reuse"] * 6
    assert [step["action"] for step in changed["steps"]] == ["reuse", *["run"] * 5]
    assert changed["steps"][1]["why"] == "train.learning_rate: 0.02 → 0.5"
    assert (result["run_id"], result["weights_sha256"]) == killed
    assert result["unchanged"] and result["reused"] == STEPS
    assert {path: path.stat().st_mtime_ns for path in (base / "storage").rglob("*.json")} == before


def test_a_deleted_version_is_registered_again_by_the_run_that_made_it(base: Path, killed: tuple[str, str]) -> None:
    config = job(base)
    tracking(None, Store(config.storage)).client.delete_model_version(config.name, "1")
    plan, run = plan_job(config, base)
    assert next((p.step, p.why) for p in plan if p.runs) == ("register", "version 1 is not registered any more")
    assert run == killed[0]
    result = run_job(config, base, Silent())
    assert (result.run_id, result.version, result.reused) == (killed[0], "2", STEPS[:4])
    assert len(list_runs(config.storage, None)) == 1 and len(nested(config, killed[0])) == 3


def test_another_champion_means_another_verdict_in_a_run_of_its_own(base: Path, killed: tuple[str, str]) -> None:
    config = job(base)
    other = run_job(job(base, seed=5, gate__champion={"tolerance": 9.0}), base, Silent())
    assert other.reused == ["snapshot"] and other.alias == "candidate" and other.version is not None
    client = tracking(None, Store(config.storage)).client
    client.set_registered_model_alias(config.name, "champion", other.version)
    plan, run = plan_job(config, base)
    [why] = [p.why for p in plan if p.step == "gate"]
    assert (why, run) == (f"champion is version {other.version} now", None)
    again = run_job(config, base, Silent())
    assert again.run_id not in (killed[0], other.run_id) and again.reused == STEPS[:3]
    assert any(f"champion (version {other.version})" in reason for reason in again.reasons)
    tags = client.get_run(again.run_id).data.tags
    assert tags["raymlops.reused.search"] == killed[0] and nested(config, again.run_id) == []


def test_a_step_can_be_asked_for_again(base: Path, killed: tuple[str, str]) -> None:
    config = job(base)
    again = run_job(config, base, Silent(), forced="refit")
    assert again.reused == STEPS[:2] and again.run_id != killed[0]
    assert again.weights_sha256 == killed[1]


def test_one_process_works_on_a_job_and_another_says_who(base: Path, killed: tuple[str, str]) -> None:
    config = job(base)
    store = Store(config.storage)
    with hold(store, Records(store, config.name).lock_root(Desk(config, base, store, Origin()).key), config.name):
        with pytest.raises(Held, match=r"small: this process itself, since \d.* is working on it"):
            run_job(config, base, Silent(), forced="report")
        assert run_job(config, base, Silent()).unchanged, "reading needs no lock"
