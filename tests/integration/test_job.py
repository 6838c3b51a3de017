"""The whole job as a library call: first champion, then candidate, then refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import configured, frame

from raymlops.errors import ConfigError, DataError, ResourceError
from raymlops.registry.backend import tracking
from raymlops.registry.catalog import find_report, list_models, list_runs
from raymlops.registry.versions import find_version
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.result import RunResult
from raymlops.retraining.watch import Silent
from raymlops.store import Store
from raymlops.training.records import TrialRecord

pytestmark = pytest.mark.usefixtures("ray_session")

BEHAVIOUR = {"kind": "direction", "column": "x", "by": 1, "expect": "increase"}


class Watching(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.statuses: set[str] = set()
        self.reused: list[str] = []

    def step_reused(self, name: str, why: str) -> None:
        self.reused.append(name)

    def step_done(self, name: str, seconds: float) -> None:
        self.steps.append(name)

    def trials(self, records: Sequence[TrialRecord], expected: int, metric: str, mode: str) -> None:
        self.statuses |= {record.status for record in records}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    frame().to_parquet(folder / "rows.parquet")
    return folder


def run(base: Path, watch: Any = None, **changes: Any) -> RunResult:
    return run_job(configured({"storage": str(base / "storage"), **changes}), base, watch or Silent())


@pytest.fixture(scope="module")
def first(base: Path, ray_session: None) -> RunResult:
    return run(base, gate__behaviours=[BEHAVIOUR])


def test_the_first_blessed_model_becomes_champion(first: RunResult, base: Path) -> None:
    assert (first.verdict, first.alias, first.version, first.exit_code) == ("blessed", "champion", "1", 0)
    assert first.model == "models:/small/1"
    assert first.metrics["mae"] is not None and first.metrics["mae"] < 1.0
    assert set(first.seconds) == {"plan", "start", "snapshot", "search", "refit", "gate", "register", "report", "total"}
    [model] = list_models(str(base / "storage"), None)
    assert model.aliases == ["champion"]
    assert model.weights_sha256 == first.weights_sha256
    run_id, html = find_report(str(base / "storage"), None, first.run_id[:8])
    assert run_id == first.run_id
    assert "blessed" in html and first.snapshot[:12] in html


def test_the_champion_scores_raw_rows_as_it_did_in_the_gate(first: RunResult, base: Path) -> None:
    package = find_version(tracking(None, Store(str(base / "storage"))), "small@champion").load()
    rows = frame(200, seed=9)
    error = np.abs(package.scores(rows.drop(columns="y")) - rows["y"]).mean()
    assert error == pytest.approx(first.metrics["mae"], rel=0.5)


def test_a_later_model_is_compared_and_becomes_candidate(first: RunResult, base: Path) -> None:
    watch = Watching()
    second = run(base, watch, seed=2, train__epochs=8, gate__champion={"tolerance": 0.1})
    assert (second.verdict, second.alias, second.version) == ("blessed", "candidate", "2")
    assert second.snapshot == first.snapshot
    assert any("champion (version 1)" in reason for reason in second.reasons)
    assert watch.steps == ["plan", "start", "search", "refit", "gate", "register", "report"]
    assert watch.reused == second.reused == ["snapshot"], "the rows are the same"
    assert "completed" in watch.statuses


def test_the_same_job_again_does_nothing_and_gives_the_same_result(first: RunResult, base: Path) -> None:
    before = list_runs(str(base / "storage"), None)
    watch = Watching()
    again = run(base, watch, gate__behaviours=[BEHAVIOUR], rollout={"alpha": 0.02})
    assert again.unchanged and again.reused == ["snapshot", "search", "refit", "gate", "register", "report"]
    assert watch.steps == ["plan"], "not even Ray"
    assert {**again.to_dict(), "seconds": 0, "reused": 0, "unchanged": 0} == {
        **first.to_dict(), "seconds": 0, "reused": 0, "unchanged": 0
    }  # fmt: skip
    assert list_runs(str(base / "storage"), None) == before


def test_a_refused_model_is_recorded_and_not_promoted(first: RunResult, base: Path) -> None:
    refused = run(base, gate__thresholds={"mae": {"max": 0.0001}, "rmse": {"max": 0.0001}})
    assert (refused.verdict, refused.version, refused.alias, refused.exit_code) == ("refused", None, None, 3)
    assert len(refused.reasons) == 2 and refused.reasons[0].startswith("mae ")
    storage = str(base / "storage")
    recorded = next(row for row in list_runs(storage, None) if row.run_id == refused.run_id)
    assert (recorded.status, recorded.verdict) == ("FINISHED", "refused")
    champion = find_version(tracking(None, Store(storage)), "small")
    assert champion.version == first.version


def test_a_worse_model_is_refused_against_the_champion(first: RunResult, base: Path) -> None:
    worse = run(base, search__space={}, search__trials=1, train__epochs=1, train__learning_rate=1e-5)
    assert worse.verdict == "refused"
    assert any("worse than tolerated" in reason for reason in worse.reasons)


def test_bad_data_is_stopped_by_the_contract(first: RunResult, base: Path) -> None:
    rows = frame()
    rows.loc[5, "z"] = 5000.0
    rows.to_parquet(base / "bad.parquet")
    with pytest.raises(Exception, match="breaks the contract") as caught:
        run(base, data__source={"kind": "parquet", "path": "bad.parquet"})
    assert caught.value.exit_code == 3  # type: ignore[attr-defined]
    assert "z: max: allowed <= " in str(caught.value)
    assert "5000" in str(caught.value)
    newest = list_runs(str(base / "storage"), None)[0]
    assert newest.status == "FAILED"
    assert "contract" in str(newest.error)


def test_a_category_never_seen_in_training_is_scored_as_unknown(first: RunResult, base: Path) -> None:
    package = find_version(tracking(None, Store(str(base / "storage"))), "small").load()
    rows = frame(3, seed=1).drop(columns="y")
    rows["group"] = ["a", "never seen", None]
    rows["x"] = [1.0, np.nan, np.inf]
    assert np.isfinite(package.scores(rows)).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__source": {"kind": "parquet", "path": "nowhere.parquet"}}, DataError, "nowhere.parquet does not exist"),
        ({"train__workers": 16}, ResourceError, "needs 16 worker"),
        (
            {"model": {"kind": "factory", "factory": "no_such_module:build"}},
            ConfigError,
            "cannot import 'no_such_module'",
        ),
        ({"search__space": {"model.depth": {"choice": [1]}}}, ConfigError, "search.space.model.depth"),
        ({"train__device": "cuda", "search__space": {}, "search__trials": 1}, Exception, "no CUDA device"),
    ],
)
def test_what_cannot_work_says_so(base: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace(".", r"\.")):
        run(base, **changes)


def test_binary_and_multiclass_tasks(base: Path) -> None:
    rows = frame()
    rows["label"] = np.where(rows["y"] > 8, "high", "low")
    rows["level"] = pd.cut(rows["y"], [-100, 4, 9, 100], labels=["low", "middle", "high"]).astype(str)
    rows.drop(columns="y").to_parquet(base / "classes.parquet")
    source = {"kind": "parquet", "path": "classes.parquet"}
    for task, target in (("binary", "label"), ("multiclass", "level")):
        result = run(
            base,
            name=f"small-{task}",
            task=task,
            data__source=source,
            data__target=target,
            train__epochs=6,
            gate__thresholds={"accuracy": {"min": 0.8}, "auc": {"min": 0.85}},
        )
        assert result.verdict == "blessed", result.reasons
        assert set(result.metrics) >= {"log_loss", "auc", "accuracy", "brier", "calibration_error"}
