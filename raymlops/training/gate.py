"""The gate: from an evaluation to a verdict with every reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raymlops.config.gate import GateConfig
from raymlops.config.tree import Config
from raymlops.training.behaviours import within
from raymlops.training.evaluation import Comparison, Evaluation


@dataclass(frozen=True)
class Check:
    """One question that was asked and how it was answered."""

    name: str
    passed: bool
    detail: str
    """A sentence with numbers."""


@dataclass(frozen=True)
class Verdict:
    """Blessed when every check passed."""

    blessed: bool
    reasons: list[str]
    """Refused: what failed, all of it. Blessed: what was passed."""
    checks: list[Check]


def decide(config: Config, evaluation: Evaluation) -> Verdict:
    """Judge a candidate. Pure: equal inputs give equal verdicts.

    Without any configured bound a model still has to give finite predictions and metrics, to beat the predictor that
    ignores its features, and not to be worse than the champion. What cannot be tested counts as failed: promotion is
    automatic, so nobody would look at a doubt.
    """
    gate = config.gate
    checks = [_finite(evaluation), *_trivial(evaluation)]
    for metric, bound in gate.thresholds.items():
        passed, words = within(evaluation.metrics.get(metric), bound)
        checks.append(Check(f"threshold {metric}", passed, f"{metric} {words} on {evaluation.rows:,} holdout rows"))
    checks += _slice_checks(gate, evaluation)
    checks.append(_champion(gate, evaluation.comparison))
    checks += [Check(b.name, b.passed, b.detail) for b in evaluation.behaviours]
    blessed = all(check.passed for check in checks)
    return Verdict(blessed, [check.detail for check in checks if check.passed == blessed], checks)


def _finite(evaluation: Evaluation) -> Check:
    rows, metric = evaluation.rows, evaluation.metric
    if evaluation.unusable:
        detail = f"{evaluation.unusable:,} of {rows:,} predictions on the holdout are NaN or infinite"
        return Check("finite", False, detail)
    value = evaluation.metrics[metric]
    if value is None:
        return Check("finite", False, f"{metric} is undefined on the {rows:,} holdout rows")
    return Check("finite", True, f"all {rows:,} holdout predictions are finite, {metric} is {value:.4g}")


def _trivial(evaluation: Evaluation) -> Iterator[Check]:
    """Against the predictor that ignores the features. Calibration says nothing: that one is calibrated."""
    metric, greater = evaluation.metric, evaluation.greater_is_better
    if metric == "calibration_error":
        metric, greater = "log_loss", False
    ours, trivial = evaluation.metrics[metric], evaluation.baseline[metric]
    if ours is None or trivial is None:
        return  # `finite` has said so, or the metric is undefined for constant predictions
    passed = ours > trivial if greater else ours < trivial
    words = "is better than" if passed else "is not better than"
    detail = f"{metric} {ours:.4g} {words} {trivial:.4g} of a predictor that ignores the features"
    yield Check("trivial predictor", passed, detail)


def _slice_checks(gate: GateConfig, evaluation: Evaluation) -> Iterator[Check]:
    large = [row for row in evaluation.slices if row.rows >= gate.min_slice_rows]
    for metric, bound in gate.slice_thresholds.items():
        failed = False
        for row in large:
            passed, words = within(row.metrics.get(metric), bound)
            if not passed:
                failed = True
                detail = f"{metric} {words} on the {row.rows:,} holdout rows with {row.column} = {row.value}"
                yield Check(f"slice {metric} {row.column}={row.value}", False, detail)
        if not large:
            detail = f"{metric} per slice cannot be tested: no slice has at least {gate.min_slice_rows:,} holdout rows"
            yield Check(f"slices {metric}", False, detail)
        elif not failed:
            limits = " and ".join(f"{k} {v:g}" for k, v in (("max", bound.max), ("min", bound.min)) if v is not None)
            detail = f"{metric} meets {limits} on each of {len(large)} slices of at least {gate.min_slice_rows:,} rows"
            yield Check(f"slices {metric}", True, detail)


def _champion(gate: GateConfig, comparison: Comparison | None) -> Check:
    """Refuse when the whole interval lies on the wrong side: of the tolerance, or of zero when better is required.

    By default the doubt goes to the candidate: it was made from newer data, and it only becomes `candidate` here.
    """
    if comparison is None:
        return Check("champion", True, "there is no champion to compare with")
    c, rule = comparison, gate.champion
    version = f"champion (version {c.champion_version})" if c.champion_version else "champion"
    if c.error is not None or c.candidate is None or c.champion is None or c.difference is None:
        return Check("champion", False, f"the {version} cannot be compared on the holdout: {c.error}")
    low, high = c.interval
    if low is None or high is None:
        return Check("champion", False, f"the {version} cannot be compared: {c.metric} is undefined on resampled rows")
    # From here on positive means that the candidate is worse.
    least, most = (-high, -low) if c.greater_is_better else (low, high)
    allowed = rule.tolerance * abs(c.champion)
    numbers = (
        f"{c.metric} {c.candidate:.4g} against {c.champion:.4g} of the {version}, difference {c.difference:+.3g}, "
        f"{c.confidence:.0%} interval {low:+.3g} to {high:+.3g}"
    )
    if least > allowed:
        return Check("champion", False, f"worse than tolerated ({rule.tolerance:.1%}): {numbers}")
    if rule.require_improvement and most >= 0:
        return Check("champion", False, f"no improvement with {c.confidence:.0%} confidence: {numbers}")
    words = "better" if most < 0 else "not worse than tolerated" if allowed else "not significantly worse"
    return Check("champion", True, f"{words}: {numbers}")
