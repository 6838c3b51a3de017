"""Part 3: the decision rules of public tools on the same traffic.

One hour at 10 requests a second, every request its own unit, one metric (errors). A rule sees what its documentation
says that it looks at. Where a default is documented it is used; what had to be chosen is said in `note`. Rules that
only know the canary's own rate get the threshold of their documentation's example: a team that knows its rate would
choose it, and they are shown again with one chosen for this traffic.

Read for this (2026-11):
- Argo Rollouts, argoproj/argo-rollouts docs/features/analysis.md (example: success rate >= 0.95 every 5m, failureLimit
  3) and pkg/apis/rollouts/v1alpha1/analysis_types.go ("FailureLimit is the maximum number of times the measurement is
  allowed to fail, before the entire metric is considered Failed (default: 0)"); analysis/analysis.go fails when
  result.Failed > failureLimit, counted over the whole run.
- Flagger, fluxcd/flagger docs/gitbook/usage/how-it-works.md (example: interval 1m, threshold 10, request-success-rate
  min 99; "if the failed checks threshold is reached, stops the analysis and rolls back"); without a threshold
  pkg/apis/flagger/v1beta1/canary.go takes 1.
- Kayenta, spinnaker/kayenta NetflixACAJudge.scala (Mann-Whitney with tolerance 0.25, confidence level 0.98) and
  MannWhitney.scala (the interval is that of R's wilcox.test, with its corrections for ties and continuity);
  docs/canary-config.md (effect sizes default to 1, that is off). spinnaker.io/docs/guides/user/canary/best-practices
  (runs of 1 hour, at least 50 points a metric, marginal 75, pass 95). With one metric the score is 0 or 100, so any
  pass score gives the same decisions.
- CloudWatch, the API reference of PutMetricAlarm (docs.aws.amazon.com): Threshold, EvaluationPeriods and, for "M out of
  N" alarms, DatapointsToAlarm. None of them has a recommended value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from benchmarks.rollout_evidence_lib.sequential import lindon_malek, peeking_z, raymlops
from benchmarks.rollout_evidence_lib.traffic import MINUTES, PER_MINUTE, Traffic, first


def _rate(errors: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """Error rate; a window without requests has no data and passes."""
    return np.where(requests > 0, errors / np.maximum(requests, 1), 0.0)


def argo(t: Traffic, success: float, interval: int, failure_limit: int) -> np.ndarray:
    _, _, requests, errors = t.per(interval)
    failed = np.cumsum(1.0 - _rate(errors, requests) < success, axis=1)
    return first(failed > failure_limit, interval * PER_MINUTE)


def flagger(t: Traffic, success: float, threshold: int) -> np.ndarray:
    _, _, requests, errors = t.per(1)
    return first(np.cumsum(1.0 - _rate(errors, requests) < success, axis=1) >= threshold, PER_MINUTE)


def alarm(t: Traffic, limit: float, periods: int, of: int) -> np.ndarray:
    _, _, requests, errors = t.per(1)
    breach = np.cumsum(_rate(errors, requests) > limit, axis=1)
    recent = breach - np.concatenate([np.zeros((len(breach), of), int), breach[:, :-of]], axis=1)
    return first(recent >= periods, PER_MINUTE)


def kayenta(t: Traffic, interval: int, confidence: float = 0.98, tolerance: float = 0.25) -> np.ndarray:
    """NetflixACAJudge on the error rate per minute: every `interval` minutes over the data since the start.

    Fails if the confidence interval of the Hodges–Lehmann shift lies above `tolerance` of its estimate. Its lower end
    is where the normalised rank sum, with the corrections for ties and continuity, reaches the quantile: an order
    statistic of the pairwise differences.
    """
    requests0, errors0, requests1, errors1 = t.per(1)
    control, canary = _rate(errors0, requests0), _rate(errors1, requests1)
    found = np.full(len(control), np.inf)
    z = norm.ppf(1 - (1 - confidence) / 2)
    for m in range(interval, MINUTES + 1, interval):
        for i in np.flatnonzero(np.isinf(found)):
            shifts = np.sort((canary[i, :m, None] - control[i, None, :m]).ravel())
            ties = sum(float((n**3 - n).sum()) for n in (_repeats(canary[i, :m]), _repeats(control[i, :m])))
            sigma = np.sqrt(m * m / 12 * (2 * m + 1 - ties / (2 * m * (2 * m - 1))))
            low = int(np.floor(m * m / 2 - 0.5 - z * sigma))
            if low >= 0 and shifts[low] > tolerance * abs(np.median(shifts)):
                found[i] = m * PER_MINUTE
    return found


def _repeats(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_counts=True)[1].astype(float)


@dataclass(frozen=True)
class Rule:
    name: str
    run: Callable[[Traffic], np.ndarray]
    note: str
    least: int = 10_000


def rules() -> Iterator[Rule]:
    yield Rule("raymlops", raymlops, "α = 0.01, defaults")
    yield Rule("Lindon–Malek", lindon_malek, "α = 0.01, Dirichlet(1, 1), published two-sided form")
    yield Rule("Argo Rollouts, documented example", lambda t: argo(t, 0.95, 5, 3),
               "success ≥ 0.95 every 5 min, failureLimit 3")  # fmt: skip
    yield Rule("Argo Rollouts, tuned to 98 %", lambda t: argo(t, 0.98, 5, 3), "the same with success ≥ 0.98")
    yield Rule(
        "Argo Rollouts, 98 %, failureLimit 0",
        lambda t: argo(t, 0.98, 5, 0),
        "the same with failureLimit at its default 0",
    )
    yield Rule("Flagger, documented example", lambda t: flagger(t, 0.99, 10),
               "request-success-rate ≥ 99 every minute, threshold 10 failed checks")  # fmt: skip
    yield Rule("Flagger, tuned to 97.5 %", lambda t: flagger(t, 0.975, 10), "the same with ≥ 97.5")
    yield Rule("Flagger, 97.5 %, threshold 1", lambda t: flagger(t, 0.975, 1), "the same with threshold left out: 1")
    yield Rule("Kayenta, judged after 1 h", lambda t: kayenta(t, 60),
               "recommended run of 1 h, a point a minute; Mann–Whitney at 0.98, tolerance 0.25", 1_000)  # fmt: skip
    yield Rule("Kayenta, judged every 10 min", lambda t: kayenta(t, 10),
               "the same looked at every 10 min, fewer points than recommended", 1_000)  # fmt: skip
    yield Rule(
        "CloudWatch-style alarm, 1 of 1", lambda t: alarm(t, 0.02, 1, 1), "canary errors > 2 % in a minute (chosen)"
    )
    yield Rule("CloudWatch-style alarm, 3 of 3", lambda t: alarm(t, 0.02, 3, 3), "the same in 3 minutes in a row")
    yield Rule("z-test, looked at every 100 requests", peeking_z, "pooled, one-sided, nominal α = 0.01")


def scenarios() -> Iterator[tuple[str, np.ndarray, float, np.ndarray]]:
    """(name, control's error rate per slot, ratio, share per slot). The first four are A/A."""
    slots = MINUTES * PER_MINUTE // 10
    x = np.arange(slots) / slots
    half, ramp = np.full(slots, 0.5), np.array([0.05, 0.10, 0.25, 0.50])[(x * 4).astype(int)]
    one, drift = np.full(slots, 0.01), 0.002 + 0.028 * x
    yield "A/A 0.5 %, 50/50", 0.5 * one, 1.0, half
    yield "A/A 1 %, 50/50", one, 1.0, half
    yield "A/A 2 %, 50/50", 2 * one, 1.0, half
    yield "A/A drift 0.2→3 %, ramp", drift, 1.0, ramp
    yield "1 % → 3 %, 50/50", one, 3.0, half
    yield "1 % → 3 %, 10 %", one, 3.0, np.full(slots, 0.1)
    yield "0.1 % → 100 %, 10 %", 0.1 * one, 1000.0, np.full(slots, 0.1)
