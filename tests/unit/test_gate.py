"""The gate: every reason is given, and what cannot be tested is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from config_cases import smallest

from raymlops.config.gate import GateConfig
from raymlops.training.behaviours import BehaviourResult
from raymlops.training.evaluation import Comparison, Evaluation, SliceRow
from raymlops.training.gate import Verdict, decide

GOOD = Evaluation(
    task="regression",
    rows=1000,
    metric="mae",
    greater_is_better=False,
    metrics={"mae": 4.0, "rmse": 6.0},
    baseline={"mae": 9.0, "rmse": 12.0},
    unusable=0,
)


def judge(evaluation: Evaluation, **gate: Any) -> Verdict:
    config = smallest(task=evaluation.task, gate=GateConfig.model_validate(gate).model_dump())
    return decide(config, evaluation)


def comparison(low: float, high: float, greater_is_better: bool = False, **more: Any) -> Comparison:
    middle = (low + high) / 2
    numbers: dict[str, Any] = {
        "candidate": 4.0 + middle,
        "champion": 4.0,
        "difference": middle,
        "relative": middle / 4,
        "interval": (low, high),
        "bootstrap_rows": 1000,
    }
    return Comparison("mae", greater_is_better, "3", 0.95, 1000, **{**numbers, **more})


def test_without_any_rule_a_sound_model_is_blessed_with_what_it_passed() -> None:
    verdict = judge(GOOD)
    assert verdict.blessed
    assert verdict.reasons == [
        "all 1,000 holdout predictions are finite, mae is 4",
        "mae 4 is better than 9 of a predictor that ignores the features",
        "there is no champion to compare with",
    ]


def test_every_reason_for_a_refusal_is_given_and_nothing_else() -> None:
    bad = replace(
        GOOD,
        metrics={"mae": 10.0, "rmse": 12.0},
        comparison=comparison(0.5, 0.7),
        behaviours=[
            BehaviourResult("invariance c", "invariance", False, "moves 3 of 10"),
            BehaviourResult("minimum z", "minimum", True, "fine"),
        ],
    )
    verdict = judge(bad, thresholds={"mae": {"max": 5}, "rmse": {"max": 20}})
    assert not verdict.blessed
    assert verdict.reasons == [
        "mae 10 is not better than 9 of a predictor that ignores the features",
        "mae 10 is above the maximum 5 on 1,000 holdout rows",
        "worse than tolerated (0.0%): mae 4.6 against 4 of the champion (version 3), difference +0.6, "
        "95% interval +0.5 to +0.7",
        "moves 3 of 10",
    ]
    assert [check.name for check in verdict.checks if check.passed] == ["finite", "threshold rmse", "minimum z"]


def test_predictions_that_are_not_finite_refuse_even_without_rules() -> None:
    verdict = judge(replace(GOOD, unusable=7, metrics={"mae": None, "rmse": None}))
    assert verdict.reasons == ["7 of 1,000 predictions on the holdout are NaN or infinite"]


def test_an_undefined_metric_refuses_with_that_reason() -> None:
    metrics = {"log_loss": 0.1, "auc": None, "accuracy": 1.0, "brier": 0.0, "calibration_error": 0.0}
    one_class = replace(GOOD, task="binary", metric="log_loss", metrics=metrics, baseline={**metrics, "log_loss": 0.6})
    assert judge(one_class).blessed
    assert judge(one_class, thresholds={"auc": {"min": 0.7}}).reasons == ["auc is undefined on 1,000 holdout rows"]
    by_auc = replace(one_class, metric="auc", greater_is_better=True)
    assert judge(by_auc).reasons == ["auc is undefined on the 1,000 holdout rows"]


@pytest.mark.parametrize(
    ("bound", "passed"),
    [({"max": 4}, True), ({"max": 3.9}, False), ({"min": 4, "max": 5}, True), ({"min": 4.1}, False)],
)
def test_thresholds_include_their_bound(bound: dict[str, float], passed: bool) -> None:
    assert judge(GOOD, thresholds={"mae": bound}).blessed is passed


def test_where_more_is_better_the_trivial_predictor_must_be_exceeded() -> None:
    accurate = replace(
        GOOD, metric="accuracy", greater_is_better=True, metrics={"accuracy": 0.8}, baseline={"accuracy": 0.8}
    )
    assert judge(accurate).reasons == ["accuracy 0.8 is not better than 0.8 of a predictor that ignores the features"]
    assert judge(replace(accurate, metrics={"accuracy": 0.81})).blessed


def test_calibration_is_not_compared_with_the_trivial_predictor() -> None:
    metrics = {"log_loss": 0.3, "calibration_error": 0.02}
    calibrated = replace(
        GOOD, metric="calibration_error", metrics=metrics, baseline={"log_loss": 0.6, "calibration_error": 0.0}
    )
    assert judge(calibrated).blessed
    assert not judge(replace(calibrated, metrics={**metrics, "log_loss": 0.7})).blessed


def test_large_slices_must_meet_their_bound() -> None:
    slices = [
        SliceRow("c", "a", 500, {"mae": 3.0}),
        SliceRow("c", "b", 60, {"mae": 8.0}),
        SliceRow("c", "tiny", 10, {"mae": 99.0}),
    ]
    rules = {"slices": ["c"], "slice_thresholds": {"mae": {"max": 5}}}
    sliced = replace(GOOD, slices=slices)
    assert judge(sliced, **rules).reasons == ["mae 8 is above the maximum 5 on the 60 holdout rows with c = b"]
    passed = judge(replace(GOOD, slices=[slices[0], slices[2]]), **rules)
    assert passed.blessed and "mae meets max 5 on each of 1 slices of at least 50 rows" in passed.reasons
    untested = judge(replace(GOOD, slices=slices[2:]), **rules)
    assert untested.reasons == ["mae per slice cannot be tested: no slice has at least 50 holdout rows"]


@pytest.mark.parametrize(
    ("low", "high", "rule", "blessed", "words"),
    [
        (-0.5, -0.1, {}, True, "better:"),
        (-0.1, 0.3, {}, True, "not significantly worse:"),
        (0.01, 0.3, {}, False, "worse than tolerated (0.0%):"),
        (0.01, 0.3, {"tolerance": 0.05}, True, "not worse than tolerated:"),
        (0.21, 0.4, {"tolerance": 0.05}, False, "worse than tolerated (5.0%):"),
        (-0.1, 0.3, {"require_improvement": True}, False, "no improvement with 95% confidence:"),
        (-0.5, -0.1, {"require_improvement": True}, True, "better:"),
        (0.0, 0.0, {}, True, "not significantly worse:"),
    ],
)
@pytest.mark.parametrize("greater", [False, True])
def test_the_champion_rule(
    low: float, high: float, rule: dict[str, Any], blessed: bool, words: str, greater: bool
) -> None:
    bounds = (-high, -low) if greater else (low, high)
    verdict = judge(replace(GOOD, comparison=comparison(*bounds, greater_is_better=greater)), champion=rule)
    assert verdict.blessed is blessed
    assert next(check.detail for check in verdict.checks if check.name == "champion").startswith(words)


def test_a_champion_that_cannot_be_compared_refuses() -> None:
    broken = Comparison("mae", False, "3", 0.95, 1000, error="column 'gone': missing")
    assert judge(replace(GOOD, comparison=broken)).reasons == [
        "the champion (version 3) cannot be compared on the holdout: column 'gone': missing"
    ]
    vague = comparison(0.0, 0.0, interval=(None, None))
    assert judge(replace(GOOD, comparison=vague)).reasons == [
        "the champion (version 3) cannot be compared: mae is undefined on resampled rows"
    ]
