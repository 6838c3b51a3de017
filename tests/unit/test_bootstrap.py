"""The paired bootstrap: reproducible, paired, and covering what it says it covers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raymlops.training import bootstrap
from raymlops.training.bootstrap import paired_interval

ASKED = {"confidence": 0.9, "resamples": 300, "seed": 1}


def models(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    hard = rng.normal(size=n) * 3  # an error that both models make
    return y, y + hard + 0.3 * rng.normal(size=n), y + hard + 0.3 * rng.normal(size=n)


def test_equal_arguments_give_equal_intervals_and_the_seed_matters() -> None:
    y, a, b = models(0)
    first = paired_interval("mae", "regression", y, a, b, **ASKED)
    assert first == paired_interval("mae", "regression", y, a, b, **ASKED)
    assert first != paired_interval("mae", "regression", y, a, b, **{**ASKED, "seed": 2})
    swapped = paired_interval("mae", "regression", y, b, a, **ASKED)
    assert (swapped.low, swapped.high) == pytest.approx((-first.high, -first.low))


def test_the_same_model_twice_has_no_difference() -> None:
    y, a, _ = models(0)
    for metric in ("mae", "rmse"):
        found = paired_interval(metric, "regression", y, a, a, **ASKED)
        assert (found.low, found.high) == (0.0, 0.0)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    y, a, b = models(3)
    width = paired_interval("mae", "regression", y, a, b, **ASKED)
    spread = np.abs(a - y).std() * math.sqrt(2 / len(y)) * 1.645 * 2  # what two independent holdouts would give
    assert width.high - width.low < spread / 3


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(120):
        y, a, b = models(seed)
        found = paired_interval("mae", "regression", y, a, b, **{**ASKED, "resamples": 150})
        covered += found.low <= 0 <= found.high  # both models are equally good by construction
    assert 0.82 <= covered / 120 <= 0.97  # 0.9 ± 3 standard errors of 120 draws


def test_the_interval_agrees_with_the_normal_approximation_on_many_rows() -> None:
    y, a, b = models(5, 20_000)
    differences = np.abs(a - y) - np.abs(b - y)
    found = paired_interval("mae", "regression", y, a, b, confidence=0.9, resamples=1000, seed=0)
    error = differences.std() / math.sqrt(len(y))
    assert found.low == pytest.approx(differences.mean() - 1.645 * error, abs=0.25 * error)
    assert found.high == pytest.approx(differences.mean() + 1.645 * error, abs=0.25 * error)


def test_a_custom_metric_is_called_on_the_resampled_rows() -> None:
    y, a, b = models(1)

    def mae(predictions: np.ndarray, targets: np.ndarray) -> float:
        return float(np.abs(predictions - targets).mean())

    own = paired_interval(mae, "regression", y, a, b, **ASKED)
    built_in = paired_interval("mae", "regression", y, a, b, **ASKED)
    assert (own.low, own.high) == pytest.approx((built_in.low, built_in.high))


def test_resamples_without_a_meaning_are_left_out() -> None:
    y = np.array([1] + [0] * 9)
    scores = np.linspace(1, 0, 10)
    found = paired_interval("auc", "binary", y, scores, 1 - scores, **ASKED)
    assert (found.low, found.high) == (1.0, 1.0)  # a third of the resamples has no positive row
    nothing = paired_interval("auc", "binary", np.zeros(10, int), scores, scores, **ASKED)
    assert math.isnan(nothing.low) and math.isnan(nothing.high)


def test_large_holdouts_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_ROWS", 50)
    y, a, b = models(2)
    assert paired_interval("mae", "regression", y, a, b, **ASKED).rows == 50
