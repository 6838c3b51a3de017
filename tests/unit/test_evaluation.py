"""Evaluation of small models whose right answers are known: slices, trivial predictor, champion, behaviours."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from config_cases import smallest

from raymlops.config import Config
from raymlops.errors import ConfigError, DataError
from raymlops.training import behaviours
from raymlops.training.evaluation import MISSING, Evaluation, evaluate


def config(task: str = "regression", **gate: Any) -> Config:
    features = {"numeric": {"x": {}}, "categorical": {"c": {}}}
    return smallest(task=task, features=features, gate={"champion": {"resamples": 100}, **gate})


FRAME = pd.DataFrame(
    {"id": range(8), "x": np.arange(8.0), "c": ["a", "a", "a", "b", "b", None, None, "z"], "y": np.arange(8.0)}
)
TRAIN = np.array([0.0, 1.0, 2.0, 9.0])


def run(
    score: Any,
    settings: Config | None = None,
    frame: pd.DataFrame = FRAME,
    y: np.ndarray | None = None,
    champion: Any = None,
    version: str | None = None,
    metric: Any = "auto",
    train: np.ndarray = TRAIN,
) -> Evaluation:
    settings = settings or config()
    labels = frame["y"].to_numpy() if y is None else y
    return evaluate(settings, frame, labels, score, champion, version, metric, 0, train)


def predict(frame: pd.DataFrame) -> np.ndarray:
    return frame["x"].to_numpy(dtype=float) + 1.0


def test_metrics_and_the_predictor_that_ignores_the_features() -> None:
    found = run(predict)
    assert found.metrics == {"mae": 1.0, "rmse": 1.0}
    y = FRAME["y"].to_numpy()
    assert found.baseline["mae"] == pytest.approx(np.abs(y - 1.5).mean())  # the training median
    assert found.baseline["rmse"] == pytest.approx(math.sqrt(np.square(y - 3.0).mean()))  # the training mean
    assert (found.rows, found.metric, found.greater_is_better, found.unusable) == (8, "mae", False, 0)
    assert found.comparison is None


def test_trivial_predictors_of_classes_use_training_shares() -> None:
    y = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    found = run(lambda f: np.full(len(f), 0.9), config("binary"), y=y, train=np.array([0, 1, 1, 1]))
    share = -(5 * math.log(0.75) + 3 * math.log(0.25)) / 8
    assert found.baseline["log_loss"] == pytest.approx(share)
    assert found.baseline["accuracy"] == 5 / 8 and found.baseline["auc"] == 0.5
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    scores = np.full((8, 3), 1 / 3)
    found = run(lambda f: scores[: len(f)], config("multiclass"), y=y, train=np.array([0, 0, 1, 2]))
    assert found.baseline["accuracy"] == 3 / 8  # class 0, the most frequent one in training


def test_slices_are_the_most_frequent_values_and_missing_is_one() -> None:
    found = run(predict, config(slices=["c", "id"], max_slices=3))
    assert [(s.column, s.value, s.rows) for s in found.slices] == [
        ("c", "a", 3),
        ("c", MISSING, 2),
        ("c", "b", 2),
        ("id", "0", 1),
        ("id", "1", 1),
        ("id", "2", 1),
    ]
    assert found.slices[0].metrics == {"mae": 1.0, "rmse": 1.0}
    with pytest.raises(DataError, match=r"gate\.slices: column 'nope' is missing; the rows have id, x, c, y"):
        run(predict, config(slices=["nope"]))


def test_a_metric_that_is_undefined_on_a_slice_is_null() -> None:
    y = np.array([1, 1, 1, 0, 1, 0, 0, 1])
    found = run(lambda f: np.linspace(0.1, 0.9, len(f)), config("binary", slices=["c"]), y=y, train=y)
    assert found.slices[0].metrics["auc"] is None and found.slices[0].metrics["log_loss"] is not None
    assert '"auc": null' in json.dumps(found.to_dict(), allow_nan=False)


def test_predictions_that_are_not_finite_are_counted_and_give_no_metrics() -> None:
    found = run(lambda f: np.where(f["x"] > 5, np.nan, f["x"]))
    assert found.unusable == 2 and found.metrics == {"mae": None, "rmse": None}


def test_the_champion_is_compared_on_the_same_rows() -> None:
    found = run(predict, champion=lambda f: f["x"].to_numpy() + np.where(f["x"] > 3, 3.0, 1.0), version="4")
    c = found.comparison
    assert c is not None and c.error is None
    assert (c.candidate, c.champion, c.difference, c.relative) == (1.0, 2.0, -1.0, -0.5)
    assert c.interval[0] is not None and c.interval[1] is not None
    assert -2.0 <= c.interval[0] < -1.0 < c.interval[1] <= 0.0
    assert (c.metric, c.champion_version, c.resamples, c.bootstrap_rows) == ("mae", "4", 100, 8)


def raises(frame: pd.DataFrame) -> np.ndarray:
    raise DataError("column 'gone': missing")


@pytest.mark.parametrize(
    ("champion", "message"),
    [
        (raises, "column 'gone': missing"),
        (lambda f: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda f: np.zeros((8, 2)), "scores of shape (8, 2) found, expected (8,)"),
        (lambda f: np.full(8, np.nan), "mae of the champion is undefined on these rows"),
        (None, "it could not be loaded"),
    ],
)
def test_a_champion_that_cannot_score_is_an_error_in_the_comparison(champion: Any, message: str) -> None:
    found = run(predict, champion=champion, version="4").comparison
    assert found is not None and found.error is not None and message in found.error and found.difference is None


def test_a_users_metric_decides_and_is_reported() -> None:
    def share_close(predictions: np.ndarray, targets: np.ndarray) -> float:
        return float((np.abs(predictions - targets) < 1.5).mean())

    metric = SimpleNamespace(name="share_close", mode="max", custom=share_close)
    found = run(predict, metric=metric, champion=lambda f: predict(f) + 1, version="1")
    assert found.metrics == {"mae": 1.0, "rmse": 1.0, "share_close": 1.0}
    assert found.greater_is_better and found.baseline["share_close"] == 2 / 8
    assert found.comparison is not None and found.comparison.difference == 1.0

    def fails(predictions: np.ndarray, targets: np.ndarray) -> float:
        raise ValueError("no")

    with pytest.raises(ConfigError, match=r"train\.metric: mine raised ValueError: no"):
        run(predict, metric=SimpleNamespace(name="mine", mode="min", custom=fails))


def test_a_users_metric_may_be_undefined_on_a_slice() -> None:
    def picky(predictions: np.ndarray, targets: np.ndarray) -> float:
        if len(targets) < 8:
            raise ValueError("too few")
        return 1.0

    metric = SimpleNamespace(name="picky", mode="min", custom=picky)
    assert run(predict, config(slices=["c"]), metric=metric).slices[0].metrics["picky"] is None


def test_no_rows_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="holdout: there are no rows"):
        run(predict, frame=FRAME.iloc[:0])
    with pytest.raises(DataError, match=r"scores of shape \(3,\) found, expected \(8,\)"):
        run(lambda f: np.zeros(3))


def only(found: Evaluation) -> behaviours.BehaviourResult:
    assert len(found.behaviours) == 1
    return found.behaviours[0]


def by_category(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["c"].eq("b").to_numpy(), 5.0, 1.0) + frame["x"].to_numpy(dtype=float)


def test_invariance_counts_rows_that_move_and_shows_the_worst() -> None:
    rule = {"kind": "invariance", "column": "c", "values": ["a", "b"], "tolerance": 1.0}
    result = only(run(by_category, config(behaviours=[rule])))
    assert (result.passed, result.rows, result.violations) == (False, 8, 8)
    assert "setting c to a, b moves 8 of 8 predictions by more than 1 (largest move 4)" in result.detail
    assert len(result.examples) == 5
    assert result.examples[0] == {"id": 0, "x": 0.0, "c": "a", "y": 0.0, "prediction": 1.0, "changed": 5.0}
    assert only(run(by_category, config(behaviours=[{**rule, "max_violations": 1.0}]))).passed
    assert only(run(predict, config(behaviours=[rule]))).passed


def test_invariance_of_class_probabilities_takes_the_largest_move() -> None:
    def score(frame: pd.DataFrame) -> np.ndarray:
        p = np.where(frame["c"].eq("b").to_numpy(), 0.5, 0.3)
        return np.stack([p, 0.3 * np.ones(len(frame)), 0.7 - p], axis=1)

    rule = {"kind": "invariance", "column": "c", "values": ["b"], "tolerance": 0.1}
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    result = only(run(score, config("multiclass", behaviours=[rule]), y=y, train=y))
    assert result.violations == 6 and len(result.examples[0]["changed"]) == 3


def test_direction_needs_a_move_and_skips_missing_values() -> None:
    frame = FRAME.assign(x=[0, 1, 2, 3, None, None, 6, 7])

    def saturating(rows: pd.DataFrame) -> np.ndarray:
        return np.minimum(rows["x"].fillna(0).to_numpy(), 6.5)

    rule = {"kind": "direction", "column": "x", "by": 2, "expect": "increase", "max_violations": 0.0}
    result = only(run(saturating, config(behaviours=[rule]), frame))
    assert (result.rows, result.violations, result.passed) == (6, 1, False)
    assert result.examples[0]["prediction"] == result.examples[0]["changed"] == 6.5
    assert "raising x by 2 fails to increase 1 of 6 predictions; 16.67% of rows against at most 0.00%" in result.detail
    down = {**rule, "expect": "decrease"}
    assert only(run(saturating, config(behaviours=[down]), frame)).violations == 6


def test_minimum_performance_on_named_rows() -> None:
    def score(frame: pd.DataFrame) -> np.ndarray:
        return frame["x"].to_numpy() + np.where(frame["c"].eq("b").to_numpy(), 3.0, 0.0)

    rule = {"kind": "minimum", "name": "b-rows", "where": {"c": "b"}, "metric": "mae", "bound": {"max": 2}}
    result = only(run(score, config(behaviours=[rule])))
    assert not result.passed
    assert result.detail == "minimum b-rows: mae 3 is above the maximum 2 on 2 rows with c = b"
    assert only(run(score, config(behaviours=[{**rule, "where": {"c": ["b", "a"], "id": [0, 1]}}]))).passed
    assert only(run(score, config(behaviours=[{**rule, "where": {"c": None}}]))).rows == 2
    few = only(run(score, config(behaviours=[{**rule, "min_rows": 3}])))
    assert not few.passed and "2 holdout rows have c = b, at least 3 are needed" in few.detail


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "invariance", "column": "x", "values": ["text"]}, "could not be tested: ValueError"),
        ({"kind": "invariance", "column": "no", "values": [1]}, "column 'no': missing; the rows have id"),
        ({"kind": "direction", "column": "c", "by": 1, "expect": "increase"}, "column 'c': found .*string"),
    ],
)
def test_a_behaviour_that_cannot_be_tested_has_failed(rule: dict[str, Any], message: str) -> None:
    result = only(run(predict, config(behaviours=[rule])))
    assert not result.passed
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.detail)


def test_a_direction_has_no_meaning_for_many_classes() -> None:
    rule = {"kind": "direction", "column": "x", "by": 1, "expect": "increase"}
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    result = only(run(lambda f: np.full((len(f), 3), 1 / 3), config("multiclass", behaviours=[rule]), y=y, train=y))
    assert not result.passed and "task multiclass has one per class" in result.detail


def test_behaviours_of_large_holdouts_are_tried_on_a_fixed_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviours, "MAX_ROWS", 5)
    sizes: list[int] = []

    def score(frame: pd.DataFrame) -> np.ndarray:
        sizes.append(len(frame))
        return predict(frame)

    rule = {"kind": "direction", "column": "x", "by": 1, "expect": "decrease"}
    first, second = (only(run(score, config(behaviours=[rule]))) for _ in range(2))
    assert first == second and first.rows == 5 and sizes == [8, 5, 8, 5]
    assert "5 of 5 predictions (sampled from 8)" in first.detail
