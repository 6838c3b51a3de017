"""The training loop on small problems with known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from raymlops.config.training import EarlyStopping, MlpModel, TrainConfig
from raymlops.errors import ConfigError
from raymlops.features.state import ArraySpec
from raymlops.training.batches import InMemory
from raymlops.training.loop import (
    EpochReport,
    Objective,
    Target,
    Trained,
    TrainingDiverged,
    learning_rate_factor,
    train,
)
from raymlops.training.models import build_model
from raymlops.training.objective import ValidationMetric, loss_function, scores

SPEC = ArraySpec(numeric=3, cardinalities=(4,), tensors={}, outputs=1)


def rows(count: int = 600, seed: int = 0, task: str = "regression") -> InMemory:
    draw = np.random.default_rng(seed)
    numeric = draw.normal(size=(count, 3)).astype(np.float32)
    category = draw.integers(0, 4, size=(count, 1)).astype(np.int32)
    signal = numeric @ np.array([1.0, -2.0, 0.5], dtype=np.float32) + category[:, 0]
    target = signal.astype(np.float32) if task == "regression" else (signal > 1.5).astype(np.int64)
    return InMemory("snapshot", {"numeric": numeric, "categorical": category, "target": target}, [count])


def objective(task: str = "regression", target: Target | None = None) -> Objective:
    metric = ValidationMetric.resolve("auto", task)
    return Objective(task, loss_function("auto", task), metric, target or Target())


def run(config: TrainConfig, task: str = "regression", **options: Any) -> tuple[Trained, list[EpochReport]]:
    torch.manual_seed(0)
    model = build_model(MlpModel(kind="mlp", hidden=32), SPEC)
    reports: list[EpochReport] = []
    trained = train(
        model,
        config,
        options.pop("objective", objective(task)),
        rows(task=task),
        rows(200, seed=1, task=task),
        seed=3,
        device=torch.device("cpu"),
        on_epoch=lambda report, best: reports.append(report),
        **options,
    )
    return trained, reports


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_it_learns(task: str) -> None:
    trained, reports = run(TrainConfig(epochs=15, batch_size=64, learning_rate=0.01), task)
    first, best = reports[0].metric, trained.best_metric
    assert first is not None and best is not None
    assert best < first / 3
    assert best == min(r.metric for r in reports if r.metric is not None)
    assert [r.last for r in reports] == [False] * 14 + [True]


def test_equal_inputs_give_equal_weights() -> None:
    config = TrainConfig(epochs=3, batch_size=64)
    one, _ = run(config)
    two, _ = run(config)
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_optimizers_and_schedules(optimizer: str, schedule: str) -> None:
    raw = {"epochs": 4, "batch_size": 64, "optimizer": optimizer, "schedule": schedule, "learning_rate": 0.01}
    _, reports = run(TrainConfig.model_validate(raw))
    assert reports[-1].train_loss < reports[0].train_loss


def test_metric_is_in_the_units_of_the_target() -> None:
    config = TrainConfig(epochs=2, batch_size=64)
    plain, _ = run(config)
    scaled, _ = run(config, objective=objective(target=Target(mean=50.0, scale=10.0)))
    assert plain.best_metric is not None
    assert scaled.best_metric == pytest.approx(10 * plain.best_metric)


def test_early_stopping_keeps_the_best_epoch() -> None:
    config = TrainConfig(
        epochs=50, batch_size=32, learning_rate=0.3, schedule="constant", early_stopping=EarlyStopping(patience=3)
    )
    trained, reports = run(config)
    assert trained.epochs < 50
    assert trained.epochs == trained.best_epoch + 3
    assert reports[-1].last


def test_a_loss_that_is_no_number_is_named_with_its_epoch() -> None:
    config = TrainConfig(epochs=5, learning_rate=1e30, optimizer="sgd", clip_norm=None, schedule="constant")
    with pytest.raises(TrainingDiverged, match=r"became (nan|inf) in epoch \d.*learning rate 1e\+30"):
        run(config)


def test_half_precision_needs_its_device() -> None:
    with pytest.raises(ConfigError, match="float16"):
        run(TrainConfig(epochs=1, precision="float16"))
    trained, _ = run(TrainConfig(epochs=3, batch_size=64, precision="bfloat16"))
    assert trained.best_metric is not None and math.isfinite(trained.best_metric)
    assert {t.dtype for t in trained.weights.values()} == {torch.float32}


def test_learning_rate_rises_then_falls() -> None:
    for schedule in ("cosine", "onecycle"):
        config = TrainConfig.model_validate({"schedule": schedule, "warmup": 0.2})
        factors = [learning_rate_factor(config, step, 100) for step in range(100)]
        peak = int(np.argmax(factors))
        assert 15 <= peak <= 25
        assert max(factors) == pytest.approx(1.0, abs=0.01)
        assert factors == sorted(factors[: peak + 1]) + sorted(factors[peak + 1 :], reverse=True)
        assert factors[-1] < 0.01


def test_scores_of_extreme_logits_stay_finite() -> None:
    logits = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=np.float32)
    probabilities = scores(logits, "binary")
    assert probabilities[2] == 0.5
    assert probabilities == pytest.approx(1 - probabilities[::-1])
    assert np.isfinite(probabilities).all()
    many = scores(np.array([[1e4, 0.0, -1e4]], dtype=np.float32), "multiclass")
    assert many == pytest.approx(np.array([[1.0, 0.0, 0.0]]))
