"""Metrics against scikit-learn, their laws, and what they say where they are undefined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from raymlops.config.tree import METRICS
from raymlops.training.metrics import all_metrics, compute_metric, greater_is_better, weighted_metric


def binary(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.round(np.clip(0.3 * y + rng.random(n) * 0.7, 0, 1), 2)  # rounded: many ties


def multiclass(seed: int, n: int = 500, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, predicted = rng.normal(size=300), rng.normal(size=300)
    found = all_metrics("regression", y, predicted)
    assert found == pytest.approx(
        {
            "mae": reference.mean_absolute_error(y, predicted),
            "rmse": reference.root_mean_squared_error(y, predicted),
        }
    )
    y, p = binary(seed)
    found = all_metrics("binary", y, p)
    assert found.pop("calibration_error") > 0
    assert found == pytest.approx(
        {
            "log_loss": reference.log_loss(y, p),
            "auc": reference.roc_auc_score(y, p),
            "accuracy": reference.accuracy_score(y, p > 0.5),
            "brier": reference.brier_score_loss(y, p),
        }
    )
    y, q = multiclass(seed)
    found = all_metrics("multiclass", y, q)
    assert found.pop("calibration_error") > 0
    assert found == pytest.approx(
        {
            "log_loss": reference.log_loss(y, q),
            "auc": reference.roc_auc_score(y, q, multi_class="ovr"),
            "accuracy": reference.accuracy_score(y, q.argmax(axis=1)),
            "brier": reference.brier_score_loss(y, q),
        }
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_counts_ordered_pairs_and_half_of_the_ties(rows: list[tuple[bool, int]]) -> None:
    y = np.array([positive for positive, _ in rows], dtype=int)
    scores = np.array([score / 5 for _, score in rows])
    pairs = [(a > b) + (a == b) / 2 for a in scores[y == 1] for b in scores[y == 0]]
    found = compute_metric("auc", "binary", y, scores)
    assert math.isnan(found) if not pairs else found == pytest.approx(sum(pairs) / len(pairs))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["binary", "multiclass", "regression"]), st.data())
def test_a_weight_is_a_number_of_repetitions_and_order_does_not_matter(seed: int, task: str, data: Any) -> None:
    rng = np.random.default_rng(seed)
    if task == "regression":
        y, scores = rng.normal(size=40), rng.normal(size=40)
    else:
        y, scores = binary(seed, 40) if task == "binary" else multiclass(seed, 40)
    counts = rng.integers(0, 4, 40)
    rows = rng.permutation(np.repeat(np.arange(40), counts))
    for name in METRICS[task]:
        weighted = weighted_metric(name, task, y, scores)(counts.astype(float))
        assert weighted == pytest.approx(compute_metric(name, task, y[rows], scores[rows]), nan_ok=True), name


def test_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    y = np.array([1, 0, 0, 0] * 25)
    assert compute_metric("calibration_error", "binary", y, np.full(100, 0.75)) == pytest.approx(0.5)
    assert compute_metric("calibration_error", "binary", y, np.full(100, 0.25)) == pytest.approx(0.0)
    opposite = np.concatenate([np.full(50, 0.2), np.full(50, 0.8)])
    truth = np.concatenate([np.ones(50, int), np.zeros(50, int)])
    assert compute_metric("calibration_error", "binary", truth, opposite) == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    calibrated = compute_metric("calibration_error", "binary", (rng.random(200_000) < p).astype(int), p)
    assert calibrated < 0.01
    sure = np.tile([0.9, 0.1, 0.0], (100, 1))
    right = np.array([0] * 60 + [1] * 40)
    assert compute_metric("calibration_error", "multiclass", right, sure) == pytest.approx(0.3)


def test_multiclass_auc_averages_over_the_classes_present() -> None:
    y, q = multiclass(1, 200, 3)
    wider = np.concatenate([q, np.zeros((200, 1))], axis=1)
    assert compute_metric("auc", "multiclass", y, wider) == compute_metric("auc", "multiclass", y, q)


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_undefined_is_nan(task: str) -> None:
    shape = (3, 2) if task == "multiclass" else (3,)
    broken = np.full(shape, 0.5)
    broken[1] = np.nan
    empty = np.empty((0, *shape[1:]))
    for name in METRICS[task]:
        assert math.isnan(compute_metric(name, task, np.array([0, 1, 0]), broken))
        assert math.isnan(compute_metric(name, task, np.empty(0, int), empty))
    if task != "regression":
        assert math.isnan(compute_metric("auc", task, np.zeros(3, int), np.full(shape, 0.5)))


def test_a_certain_and_wrong_prediction_has_a_finite_log_loss() -> None:
    assert 30 < compute_metric("log_loss", "binary", np.array([1]), np.array([0.0])) < 40


def test_shapes_and_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="scores of shape"):
        compute_metric("mae", "regression", np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="does not belong to task regression; it has mae, rmse"):
        compute_metric("auc", "regression", np.zeros(3), np.zeros(3))


def test_direction_of_metrics() -> None:
    names = {name for task in METRICS.values() for name in task}
    assert {name for name in names if greater_is_better(name)} == {"auc", "accuracy"}
