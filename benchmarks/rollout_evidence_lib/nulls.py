"""Part 1: how often identical models are rolled back, and models exactly at the margin promoted; and what wrong rules
do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.rollout_evidence_lib import streams as s
from raymlops.rollout.evidence.metrics import EvidenceConfig, RateMetric
from raymlops.rollout.evidence.numerics import log_mixture
from raymlops.rollout.evidence.rates import promotion_ratios, rollback_ratios
from raymlops.rollout.evidence.strata import LOG_PRIOR, log_e_from_counts

ALPHA = 0.01
_AT = float(np.log(1.0 / ALPHA))
_KEYS = np.random.default_rng(20_240_601)
HEAVY = s.zipf_keys(_KEYS, 500, 0.02)
ZIPF_KEYS = s.zipf_keys(_KEYS, 2_000, 0.02)
EVEN_KEYS = s.zipf_keys(_KEYS, 1_500, 0.02, exponent=0.0, spread=0.1)
MANY_KEYS = s.zipf_keys(_KEYS, 20_000, 0.02, exponent=0.7, spread=2.0)
FEW_KEYS = s.zipf_keys(_KEYS, 3_000, 0.02, exponent=0.3, spread=2.0)


@dataclass(frozen=True)
class Null:
    """`run(rng, n)` returns for each of n rollouts whether it was decided wrongly."""

    name: str
    kind: str
    right: bool
    run: Callable[[np.random.Generator, int], np.ndarray]
    batch: int = 250
    least: int = 10_000
    """Rollouts in a full run; wrong variants need fewer to be seen."""


def _rollback(make, rng, n, shares=None) -> np.ndarray:
    stream = make(rng, n)
    if shares is not None:
        stream.shares = shares
    return np.isfinite(s.decide(stream, rollback_ratios(), 1.0, _AT, restarts=True))


def _promote(make, rng, n, margin: float = 2.0) -> np.ndarray:
    return np.isfinite(s.decide(make(rng, n), promotion_ratios(margin), margin, _AT, restarts=False))


def _drift(x):
    return 0.002 + 0.028 * x


def _constant(x):
    return np.full_like(x, 0.01)


def _diurnal(x):
    return 0.01 * (1.0 + 0.8 * np.sin(4 * np.pi * x))


def _outage(x):
    return np.where(np.abs((x * 5) % 1 - 0.5) < 0.02, 0.4, 0.005)


def _tries(rng, n, spend: bool) -> np.ndarray:
    found = np.zeros(n, bool)
    for attempt in range(1, 11):
        alpha = EvidenceConfig((RateMetric("errors"),), attempt=attempt).spent_alpha if spend else ALPHA
        stream = s.unkeyed(rng, n, 40_000, _constant, 1.0)
        found |= np.isfinite(s.decide(stream, rollback_ratios(), 1.0, float(np.log(1 / alpha)), restarts=True))
    return found


def _labels(rng, n, predictions: int, drop: float, ramp: bool, same_shape: bool):
    """Scores: control Beta with mean 0.8 drifting by 0.1; the candidate's mean lower by `drop`, or 0-1 valued with the
    same mean. 30 % of labels are missing whatever their value."""
    progress = np.arange(predictions) / predictions
    shares = np.asarray(s.RAMP if ramp else (0.5,) * 4)[(progress * 4).astype(int)]
    arms = (rng.random((n, predictions)) < shares).astype(np.int8)
    mean = 0.8 - 0.1 * progress * ramp - drop * arms
    values = rng.beta(5 * mean, 5 * (1 - mean))
    if not same_shape:
        values = np.where(arms == 1, rng.random((n, predictions)) < mean, values)
    values[rng.random((n, predictions)) < 0.3] = np.nan
    return values, arms, shares


def _label_rollback(rng, n, *, ramp: bool, same_shape: bool, arrival_order: bool = False) -> np.ndarray:
    values, arms, shares = _labels(rng, n, 3000, 0.0, ramp, same_shape)
    if arrival_order:
        delay = np.where(np.nan_to_num(values) < 0.5, 0.0, 600.0) * rng.random(values.shape)
        order = np.argsort(np.arange(3000) + delay, axis=1, kind="stable")
        values, arms = np.take_along_axis(values, order, 1), np.take_along_axis(arms, order, 1)
        shares = shares[order]
    return np.isfinite(s.label_crossing(values, arms, shares, 0.0, -1, _AT))


def _label_promote(rng, n) -> np.ndarray:
    values, arms, shares = _labels(rng, n, 6000, 0.02, True, True)
    return np.isfinite(s.label_crossing(values, arms, shares, 0.02, +1, _AT))


def _strata(rng, n, pooled: bool) -> np.ndarray:
    """200,000 first requests over four days; night 0.2 %, day 3 %, the candidate twice that. Excess bound 1 %: by day
    the candidate exceeds it. Four requests in five come at night."""
    checks, share, delta = 400, 0.5, 0.01
    rows = np.arange(checks)
    day = (rows // 50) % 2 == 1
    size = np.where(day, 200, 800)
    rate = np.where(day, 0.03, 0.002)
    candidates = rng.binomial(size, share, (n, checks))
    bad1, bad0 = rng.binomial(candidates, 2 * rate), rng.binomial(size - candidates, rate)
    clean = size - bad1 - bad0
    worst = np.full((n, checks), np.inf)
    for part in [np.ones(checks, bool)] if pooled else [day, ~day]:
        sums = (np.cumsum(np.where(part, x, 0), axis=1) for x in (clean, bad0, bad1))
        worst = np.minimum(worst, log_mixture(log_e_from_counts(share, delta, *sums), LOG_PRIOR))
    return (worst >= _AT).any(axis=1)


def nulls() -> Iterator[Null]:
    def unkeyed(rate, ratio, shares=(0.5,)):
        return partial(s.unkeyed, requests=200_000, rate=rate, ratio=ratio, shares=shares)

    def keyed(keys, **more):
        return partial(s.first_events, keys=keys, requests=200_000, shares=s.RAMP, **more)

    def roll(name, make, *, right=True, shares=None, batch=250, least=10_000):
        return Null(name, "rollback", right, partial(_rollback, make, shares=shares), batch, least)

    def prom(name, make, *, margin=2.0, right=True, batch=250, least=10_000):
        return Null(name, "promotion", right, partial(_promote, make, margin=margin), batch, least)

    yield roll("constant 1 % errors", unkeyed(_constant, 1.0))
    yield roll("ramp 5→10→25→50 %, errors drift 0.2→3 %", unkeyed(_drift, 1.0, s.RAMP))
    yield roll("— wrong: average share instead of each epoch's", unkeyed(_drift, 1.0, s.RAMP), right=False,
               shares=(float(np.mean(s.RAMP)),) * 4, least=1000)  # fmt: skip
    yield roll("diurnal load and errors", unkeyed(_diurnal, 1.0, s.RAMP))
    yield roll("diurnal latency, p95 pooled threshold, 24,000 requests",
               partial(s.slow_requests, requests=24_000, share=0.5, slower=1.0, diurnal=0.5))  # fmt: skip
    yield roll("heavy-tailed latency (Pareto 1.1), 24,000 requests",
               partial(s.slow_requests, requests=24_000, share=0.5, slower=1.0, tail=1.1))  # fmt: skip
    for replicas in (1, 4, 16):
        yield roll(f"Zipf sticky keys, {replicas} replicas", keyed(ZIPF_KEYS, replicas=replicas), batch=100)
    for replicas in (4, 16):
        yield roll(f"— wrong: deduplicated in each of {replicas} replicas",
                   keyed(ZIPF_KEYS, replicas=replicas, dedup="replica"), right=False, batch=50, least=1000)  # fmt: skip
    yield roll("— wrong: deduplicated per key and arm", keyed(ZIPF_KEYS, dedup="arm"), right=False, least=1000)
    yield roll("a candidate with half the errors, Zipf sticky keys", keyed(ZIPF_KEYS, ratio=0.5))
    yield roll("500 heavy keys, 8 blocks with fresh salts", partial(s.blocks, keys=HEAVY, requests=200_000, ratio=1.0))
    yield roll("per-key error rates, mostly 0", keyed(EVEN_KEYS))
    yield roll("outages that hit both arms", unkeyed(_outage, 1.0))
    yield roll("retry storms, first event per key", partial(s.retry_storms, users=1500, count_repeats=False))
    yield roll(
        "— wrong: every retry counted", partial(s.retry_storms, users=300, count_repeats=True), right=False, least=1000
    )
    right_labels = partial(_label_rollback, ramp=True, same_shape=True)
    yield Null("labels: drift, ramp, 30 % missing, 3,000 predictions", "rollback", True, right_labels)
    fixed = partial(_label_rollback, ramp=False, same_shape=False)
    yield Null("labels: delay depends on outcome, fixed horizon", "rollback", True, fixed)
    yield Null("— wrong: labels in order of arrival", "rollback", False, partial(fixed, arrival_order=True), 250, 1000)
    yield Null("same artifact tried ten times, error spent", "rollback", True, partial(_tries, spend=True))
    yield Null("— wrong: each try at the full α", "rollback", False, partial(_tries, spend=False), 250, 1000)
    yield prom("errors exactly 2×, constant 1 %", unkeyed(_constant, 2.0))
    yield prom("errors exactly 2×, ramp and drift", unkeyed(_drift, 2.0, s.RAMP))
    firsts = partial(s.first_requests, keys=MANY_KEYS, requests=200_000, shares=s.RAMP, ratio=2.0)
    yield prom("errors exactly 2×, sticky keys, first requests", firsts, batch=100)
    yield prom("— wrong: first events for promotion", keyed(FEW_KEYS, ratio=2.0), right=False, batch=100, least=1000)
    slow = partial(s.slow_requests, requests=24_000, share=0.5, slower=1.25, tolerance=1.25)
    yield prom("latency exactly at the margin (p95, ×1.25), 24,000 requests", slow, margin=1.0)
    yield Null("quality exactly 0.02 lower, ramp, drift, 6,000 predictions", "promotion", True, _label_promote)
    yield Null("rare errors, excess above the bound by day, strata", "promotion", True, partial(_strata, pooled=False))
    yield Null("— wrong: day and night pooled", "promotion", False, partial(_strata, pooled=True), 250, 1000)
