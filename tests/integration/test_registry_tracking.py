"""The tracker, the registry and the catalogue on a real MLflow with sqlite."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from registry_cases import NOW, config_of, example, judge, make_package, rows, user_files, with_user_code

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.errors import ConfigError, IntegrityError, RaymlopsError, Refused
from raymlops.registry import publishing
from raymlops.registry.backend import tracking
from raymlops.registry.catalog import download_package, find_report, list_models, list_runs
from raymlops.registry.package import load_package
from raymlops.registry.publishing import LoggedPackage, Registered
from raymlops.registry.tracking import Tracker
from raymlops.registry.values import cut
from raymlops.registry.versions import champion, find_version
from raymlops.store import Store


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with MLflow's tables: creating them takes longer than any test."""
    root = tmp_path_factory.mktemp("schema")
    _ = tracking(None, Store(str(root))).client
    return root / "mlflow.db"


@pytest.fixture
def storage(tmp_path: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "a storage"  # with a space
    root.mkdir()
    shutil.copyfile(schema, root / "mlflow.db")
    return root


def tracker(config: Config, storage: Path, base: Path | None = None) -> Tracker:
    return Tracker(config, Store(str(storage)), base or storage, NOW)


def client(storage: Path) -> MlflowClient:
    return tracking(None, Store(str(storage))).client


def artifacts(storage: Path, run_id: str) -> dict[str, str]:
    root = Path(client(storage).get_run(run_id).info.artifact_uri)
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def bless(storage: Path, folder: Path, seed: int = 0) -> tuple[str, Registered, LoggedPackage]:
    """One whole job without the training."""
    config = config_of(storage=storage)
    package = make_package(folder, config, seed=seed)
    with tracker(config, storage) as job:
        current = champion(job.tracking, config.name)
        evaluation, verdict = judge(config, package, current.load() if current else None)
        logged = publishing.log_package(job, folder, package, example(package))
        publishing.log_evaluation(job, evaluation, verdict, logged)
        blessed = replace(verdict, blessed=True)
        registered = publishing.register(job, logged, blessed, evaluation.metrics, "ab" * 32, current)
        job.log_report(f"<html>{registered.version}</html>")
    return job.run_id, registered, logged


def test_one_parent_run_holds_what_is_needed_to_repeat_the_job(storage: Path) -> None:
    raw = config_of(storage=storage).model_dump(mode="json", by_alias=True)
    raw["data"]["source"] = {"kind": "parquet", "path": "x" * 700}
    raw["features"]["numeric"] |= {f"price ({i})": {} for i in range(150)}
    config = parse_config(raw)
    with tracker(config, storage) as job:
        job.log_data(
            snapshot="ab" * 32,
            source={"kind": "parquet", "uri": "/data/rows.parquet", "version": 3},
            rows={"train": 100, "validation": 10, "holdout": 20, "excluded": 0},
            columns={"zeta": "integer", "pixels": "tensor"},
            contract="columns: {}\n",
            profile={"zeta": {"min": float("nan")}},
            manifest={"hash": "ab" * 32, "files": {}},
        )
    run = client(storage).get_run(job.run_id)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["train.learning_rate"] == "0.003" and params["seed"] == "0"
    assert params["data.source.path"].endswith("[700 characters in all]") and len(params["data.source.path"]) <= 500
    assert "price (149)" not in params and params["features.numeric"].startswith("zeta, alpha, price (0)")
    assert run.data.tags["raymlops.kind"] == "job" and run.data.tags["raymlops.snapshot"] == "ab" * 32
    [used] = run.inputs.dataset_inputs
    assert used.dataset.digest == ("ab" * 32)[:36] and json.loads(used.dataset.source)["version"] == 3
    assert mlflow.data.get_source(used).load.__self__.uri == "/data/rows.parquet"
    files = artifacts(storage, job.run_id)
    assert {"config.yaml", "contract.yaml", "profile.json", "packages.txt", "hardware.json", "git.json"} <= set(files)
    assert json.loads(files["profile.json"])["zeta"]["min"] is None
    import yaml

    assert parse_config(yaml.safe_load(files["config.yaml"])) == config
    assert f"torch=={__import__('importlib.metadata').metadata.version('torch')}" in files["packages.txt"]


def test_trials_are_nested_runs_with_curves_and_reasons(storage: Path) -> None:
    curve = [{"epoch": e, "train_loss": 1 / (e + 1), "metric": math.nan if e == 2 else 5.0 - e} for e in range(4)]
    with tracker(config_of(storage=storage), storage) as job:
        done = job.log_trial("trial-000", {"train.learning_rate": 0.01}, curve, "completed", seconds=2.5)
        stopped = job.log_trial("trial-001", {}, curve[:1], "pruned", "worse than the best third after 1 epoch")
        failed = job.log_trial("trial-002", {"model.hidden": 8}, [], "failed", "loss became NaN " + "x" * 9000)
        infinite = job.log_trial("trial-003", {}, [{"epoch": 0, "metric": math.inf}], "completed")
    runs = client(storage)
    nested = runs.search_runs([job.experiment_id], f"tags.`mlflow.parentRunId` = '{job.run_id}'")
    assert {r.info.run_id for r in nested} == {done, stopped, failed, infinite}
    history = runs.get_metric_history(done, "metric")
    assert [(m.step, m.value) for m in history if m.step != 2] == [(0, 5.0), (1, 4.0), (3, 2.0)]
    assert len(history) == 4
    info = runs.get_run(done).info
    assert info.status == "FINISHED" and info.end_time - info.start_time == 2500
    assert runs.get_run(stopped).data.tags["trial.status"] == "pruned"
    assert runs.get_run(failed).info.status == "FAILED"
    assert runs.get_run(failed).data.tags["reason"].startswith("loss became NaN")
    assert [r.run_id for r in list_runs(str(storage), None)] == [job.run_id]  # trials are not jobs


def test_trials_may_be_logged_from_another_thread(storage: Path) -> None:
    failures: list[BaseException] = []

    def log_all(job: Tracker) -> None:
        try:
            for i in range(5):
                job.log_trial(f"trial-{i:03d}", {"i": i}, [{"epoch": 0, "metric": 1.0}], "completed")
        except BaseException as error:
            failures.append(error)

    with tracker(config_of(storage=storage), storage) as job:
        thread = threading.Thread(target=log_all, args=(job,))
        thread.start()
        job.log_metrics({"rows": 3})
        thread.join()
    assert not failures
    assert len(client(storage).search_runs([job.experiment_id])) == 6


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RaymlopsError("data: no rows"), "FAILED", "data: no rows"),
        (ValueError("odd"), "FAILED", "ValueError: odd"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt: "),
        (Refused("contract: column a"), "FAILED", "contract: column a"),
    ],
)
def test_what_ends_a_job_is_on_its_run(storage: Path, error: BaseException, status: str, message: str) -> None:
    job = tracker(config_of(storage=storage), storage)
    with pytest.raises(type(error)), job:
        raise error
    [row] = list_runs(str(storage), None)
    assert (row.status, row.error) == (status, message)
    assert row.verdict == ("stopped" if isinstance(error, Refused) else None)


def test_a_full_disk_does_not_hide_why_the_job_ended(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tracker(config_of(storage=storage), storage)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RaymlopsError, match="the first cause"), job:
        monkeypatch.setattr(job.tracking.client, "set_terminated", fails)
        raise RaymlopsError("the first cause")
    job = tracker(config_of(storage=storage), storage)
    with pytest.raises(RaymlopsError, match=r"log artifacts failed: .*No space left"), job:
        monkeypatch.setattr(job.tracking.client, "log_artifacts", fails)
        job.log_report("<html>")
    assert list_runs(str(storage), None)[0].status == "FAILED"


def test_no_global_state_of_mlflow_changes(storage: Path, tmp_path: Path) -> None:
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI"))
    bless(storage, tmp_path / "p")
    after = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI"))
    assert before == after and mlflow.active_run() is None


def test_the_first_blessed_version_is_champion_and_later_ones_are_candidates(storage: Path, tmp_path: Path) -> None:
    run, first, logged = bless(storage, tmp_path / "one")
    assert (first.version, first.alias) == ("1", "champion")
    _, second, _ = bless(storage, tmp_path / "two", seed=1)
    _, third, _ = bless(storage, tmp_path / "three", seed=2)
    assert [second.alias, third.alias] == ["candidate", "candidate"]
    rows_ = list_models(str(storage), None)
    assert [(r.version, r.aliases) for r in rows_] == [("3", ["candidate"]), ("2", []), ("1", ["champion"])]
    assert rows_[2].run_id == run and rows_[2].weights_sha256 == logged.weights_sha256 and rows_[0].age_s < 600
    assert set(rows_[0].metrics) == {"mae", "rmse"}
    version = client(storage).get_model_version("trip.time", "2")
    assert version.tags["champion"] == "1" and version.tags["snapshot"] == "ab" * 32
    newest = list_runs(str(storage), None, "trip.time", limit=1)[0]
    assert (newest.version, newest.alias, newest.metrics.keys()) == ("3", "candidate", {"mae", "rmse"})
    assert list_runs(str(storage), None, "o'ther") == []


def test_the_champion_loads_from_the_registry_and_every_hash_counts(storage: Path, tmp_path: Path) -> None:
    where = tracking(None, Store(str(storage)))
    assert champion(where, "trip.time") is None
    bless(storage, tmp_path / "p")
    found = champion(where, "trip.time")
    assert found is not None and found.uri == "models:/trip.time/1"
    np.testing.assert_array_equal(found.load().scores(rows(9)), load_package(tmp_path / "p").scores(rows(9)))
    uri, directory = download_package(str(storage), None, "trip.time@champion", tmp_path / "fetched")
    assert uri == found.uri
    # A whole other package, consistent in itself, put in the place of the registered one.
    shutil.rmtree(directory)
    make_package(directory, config_of(), seed=7)
    for read in (found.load, lambda: download_package(str(storage), None, "trip.time", tmp_path)):
        with pytest.raises(IntegrityError, match=r"trip\.time|manifest\.json"):
            read()


def test_references_that_lead_nowhere_say_what_there_is(storage: Path, tmp_path: Path) -> None:
    where = tracking(None, Store(str(storage)))
    with pytest.raises(RaymlopsError, match="known: none"):
        find_version(where, "trip.time")
    bless(storage, tmp_path / "p")
    with pytest.raises(RaymlopsError, match=r"has no alias 'canary'"):
        find_version(where, "trip.time@canary")
    with pytest.raises(RaymlopsError, match="has no version 9"):
        find_version(where, "models:/trip.time/9")
    with pytest.raises(RaymlopsError, match=r"known: trip\.time"):
        find_version(where, "trips")
    with pytest.raises(RaymlopsError, match="expected NAME"):
        find_version(where, "a/b/c")
    with pytest.raises(RaymlopsError, match="nothing registered"):
        list_models(str(storage), None, "trips")


def test_a_refused_model_is_recorded_and_loadable_but_not_registered(storage: Path, tmp_path: Path) -> None:
    config = config_of(storage=storage, gate={"thresholds": {"mae": {"max": 0.001}}})
    package = make_package(tmp_path / "p", config)
    with tracker(config, storage) as job:
        evaluation, verdict = judge(config, package)
        assert not verdict.blessed
        logged = publishing.log_package(job, tmp_path / "p", package, example(package))
        publishing.log_evaluation(job, evaluation, verdict, logged)
        publishing.refuse(job, logged, verdict)
        with pytest.raises(RaymlopsError, match="refused"):
            publishing.register(job, logged, verdict, evaluation.metrics, "ab", None)
    [row] = list_runs(str(storage), None)
    assert (row.status, row.verdict, row.version) == ("FINISHED", "refused", None)
    assert list_models(str(storage), None) == []
    files = artifacts(storage, job.run_id)
    recorded = json.loads(files["verdict.json"])
    assert recorded["reasons"] == list(verdict.reasons) and not recorded["blessed"]
    assert client(storage).get_run(job.run_id).data.tags["reasons"] == "\n".join(verdict.reasons)
    stored = client(storage).get_logged_model(logged.model_id)
    assert stored.tags["verdict"] == "refused" and stored.status == "READY"
    assert len(mlflow.pyfunc.load_model(stored.artifact_location).predict(rows(2))) == 2


def test_reports_are_found_by_the_beginning_of_a_run_id(storage: Path, tmp_path: Path) -> None:
    run, _, _ = bless(storage, tmp_path / "p")
    assert find_report(str(storage), None, run[:8]) == (run, "<html>1</html>")
    assert find_report(str(storage), None, run)[0] == run
    with pytest.raises(RaymlopsError, match="no such run"):
        find_report(str(storage), None, "zzzz")
    with pytest.raises(RaymlopsError, match="no such run"):
        find_report(str(storage), None, "")
    with tracker(config_of(storage=storage), storage) as other:
        pass
    with pytest.raises(RaymlopsError, match="no report"):
        find_report(str(storage), None, other.run_id)
    shared = run[: next(i for i in range(33) if run[: i + 1] != other.run_id[: i + 1])]
    if shared:
        with pytest.raises(RaymlopsError, match="2 runs begin"):
            find_report(str(storage), None, shared)


def test_listing_an_unused_storage_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert list_runs(str(tmp_path / "new"), None) == [] == list_models(str(tmp_path / "new"), None)
    with pytest.raises(RaymlopsError, match="no such run"):
        find_report(str(tmp_path / "new"), None, "a1")
    assert not (tmp_path / "new").exists()


def test_a_deleted_experiment_is_named(storage: Path) -> None:
    config = config_of(storage=storage, tracking={"experiment": "old things"})
    with tracker(config, storage) as job:
        pass
    client(storage).delete_experiment(job.experiment_id)
    with pytest.raises(RaymlopsError, match=r"'old things' is deleted"), tracker(config, storage):
        pass


def test_several_jobs_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from raymlops.registry.backend import tracking; from raymlops.store import Store;"
        "c = tracking(None, Store(sys.argv[1])).client; c.create_run('0')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new")], stderr=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors.decode()[-2000:]


def test_user_code_in_git_is_recorded(storage: Path, tmp_path: Path) -> None:
    base = user_files(tmp_path / "user")
    for command in (["init"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-m", "x"]):
        subprocess.run(["git", "-C", str(base), *command], check=True, capture_output=True)
    (base / "helper.py").write_text("def scale():\n    return 9.0\n")
    with tracker(with_user_code(config_of(storage=storage)), storage, base) as job:
        pass
    run = client(storage).get_run(job.run_id)
    assert run.data.tags["git.state"] == "changed" and len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert "+    return 9.0" in artifacts(storage, job.run_id)["git.diff"]
    assert job.lineage["git"]["changed"] == 1


def test_a_remote_store_without_tracking_uri_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        Tracker(config_of(), Store("s3://bucket/prefix"), Path(), NOW)


def test_long_values_are_cut_where_one_sees_it() -> None:
    assert cut("short") == "short"
    assert cut("x" * 1234, 100).endswith("… [1,234 characters in all]") and len(cut("x" * 1234, 100)) <= 100
    assert cut({"a": 1}) == '{"a": 1}'
