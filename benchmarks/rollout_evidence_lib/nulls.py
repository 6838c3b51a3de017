"""Part 1: how often identical models are rolled back, and models exactly at the margin promoted; and what wrong rules
do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.rollout_evidence_lib import streams as s
from benchmarks.rollout_evidence_lib.labels import label_long, label_promote_by_arrival, label_rollback
from benchmarks.rollout_evidence_lib.latencies import slow_requests
from benchmarks.rollout_evidence_lib.streams import ALPHA, AT
from raymlops.rollout.evidence.metrics import EvidenceConfig, RateMetric
from raymlops.rollout.evidence.numerics import log_mixture
from raymlops.rollout.evidence.rates import promotion_ratios, rollback_ratios, split_ratios
from raymlops.rollout.evidence.strata import LOG_PRIOR, log_e_from_counts

SPLIT_ALPHA = 0.001
_KEYS = np.random.default_rng(20_240_601)
HEAVY = s.zipf_keys(_KEYS, 500, 0.02)
ZIPF_KEYS = s.zipf_keys(_KEYS, 2_000, 0.02)
EVEN_KEYS = s.zipf_keys(_KEYS, 1_500, 0.02, exponent=0.0, spread=0.1)
MANY_KEYS = s.zipf_keys(_KEYS, 20_000, 0.02, exponent=0.7, spread=2.0)
FEW_KEYS = s.zipf_keys(_KEYS, 3_000, 0.02, exponent=0.3, spread=2.0)
_UNLUCKY = s.zipf_keys(_KEYS, 3_000, 0.02, exponent=0.3)
UNLUCKY_KEYS = s.Keys(_UNLUCKY.hazard, _UNLUCKY.popularity, np.where(_KEYS.random(3_000) < 0.04, 0.5, 0.0))
"""4 % of the keys fail with every second request of control, the others never."""


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
    alpha: float = ALPHA


def _rollback(make, rng, n, shares=None) -> np.ndarray:
    stream = make(rng, n)
    if shares is not None:
        stream.shares = shares
    return np.isfinite(s.decide(stream, rollback_ratios(), 1.0, AT, restarts=True))


def _promote(make, rng, n, margin: float = 2.0, shares=None) -> np.ndarray:
    stream = make(rng, n)
    if shares is not None:
        stream.shares = shares
    return np.isfinite(s.decide(stream, promotion_ratios(margin), margin, AT, restarts=False))


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


def _split(rng, n, per_request: bool) -> np.ndarray:
    """Are keys in the shares that they were assigned in? A quarter belongs to the candidate."""
    if per_request:
        key = rng.choice(len(ZIPF_KEYS.popularity), p=ZIPF_KEYS.popularity, size=(n, 5000))
        candidate = np.take_along_axis(rng.random((n, len(ZIPF_KEYS.popularity))) < 0.25, key, axis=1).astype(np.int8)
        at = np.broadcast_to(np.arange(5000.0), key.shape)
        stream = s.Stream(candidate, np.zeros_like(candidate), at, (0.25,))
    else:
        everyone = s.Keys(ZIPF_KEYS.hazard, ZIPF_KEYS.popularity, np.ones_like(ZIPF_KEYS.popularity))
        stream = s.first_requests(rng, n, everyone, 200_000, (0.25,), 1.0)
    return np.isfinite(s.decide(stream, split_ratios(), 1.0, float(np.log(1.0 / SPLIT_ALPHA)), restarts=False))


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
    return (worst >= AT).any(axis=1)


def nulls() -> Iterator[Null]:
    def unkeyed(rate, ratio, shares=(0.5,)):
        return partial(s.unkeyed, requests=200_000, rate=rate, ratio=ratio, shares=shares)

    def keyed(keys, **more):
        return partial(s.first_events, keys=keys, requests=200_000, shares=s.RAMP, **more)

    def roll(name, make, *, right=True, shares=None, batch=250, least=10_000):
        return Null(name, "rollback", right, partial(_rollback, make, shares=shares), batch, least)

    def prom(name, make, *, margin=2.0, right=True, shares=None, batch=250, least=10_000):
        return Null(name, "promotion", right, partial(_promote, make, margin=margin, shares=shares), batch, least)

    average = (float(np.mean(s.RAMP)),) * 4

    yield roll("constant 1 % errors", unkeyed(_constant, 1.0))
    yield roll("ramp 5→10→25→50 %, errors drift 0.2→3 %", unkeyed(_drift, 1.0, s.RAMP))
    yield roll("— wrong: average share instead of each epoch's", unkeyed(_drift, 1.0, s.RAMP), right=False,
               shares=average, least=1000)  # fmt: skip
    yield roll("diurnal load and errors", unkeyed(_diurnal, 1.0, s.RAMP))
    yield roll("diurnal latency, p95 pooled threshold, 24,000 requests",
               partial(slow_requests, requests=24_000, share=0.5, slower=1.0, diurnal=0.5))  # fmt: skip
    yield roll("heavy-tailed latency (Pareto 1.1), 24,000 requests",
               partial(slow_requests, requests=24_000, share=0.5, slower=1.0, tail=1.1))  # fmt: skip
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
    long_aa = partial(label_long, predictions=50_000, drop=0.0, direction=-1)
    yield Null("labels: drift, ramp, 30 % missing, 50,000 predictions", "rollback", True, long_aa, 500)
    delayed = partial(label_rollback, same_shape=True)
    name = "labels: bad ones known sooner, good ones partly after the horizon, 30 % missing"
    yield Null(name, "rollback", True, delayed)
    shape = partial(label_rollback, same_shape=False)
    name = "labels: bad ones known sooner, same mean in another shape, 30 % missing"
    yield Null(name, "rollback", True, shape)
    name = "— wrong: the same, labels in order of arrival"
    yield Null(name, "rollback", False, partial(shape, arrival_order=True), 250, 1000)
    yield Null("same artifact tried ten times, error spent", "rollback", True, partial(_tries, spend=True))
    yield Null("— wrong: each try at the full α", "rollback", False, partial(_tries, spend=False), 250, 1000)
    yield prom("errors exactly 2×, constant 1 %", unkeyed(_constant, 2.0))
    yield prom("errors exactly 2×, ramp and drift", unkeyed(_drift, 2.0, s.RAMP))
    yield prom("— wrong: average share instead of each epoch's", unkeyed(_drift, 2.0, s.RAMP), right=False,
               shares=average, least=1000)  # fmt: skip
    yield prom("errors exactly 2×, diurnal load and errors", unkeyed(_diurnal, 2.0, s.RAMP))
    yield prom("errors exactly 2×, outages that hit both arms", unkeyed(_outage, 2.0))
    firsts = partial(s.first_requests, requests=200_000, shares=s.RAMP, ratio=2.0)
    yield prom("errors exactly 2×, 20,000 sticky keys, first requests", partial(firsts, keys=MANY_KEYS), batch=100)
    yield prom("errors exactly 2×, 3,000 sticky keys, first requests", partial(firsts, keys=FEW_KEYS))
    windows = partial(s.first_windows, keys=UNLUCKY_KEYS, requests=200_000, shares=s.RAMP, ratio=2.0, window=20_000.0)
    for m in (1, 4):
        name = f"errors exactly 2×, all of them at 4 % of the keys, first {m} request{'s' * (m > 1)}"
        yield prom(name, partial(windows, m=m))
    apart = partial(
        s.first_requests_of_replicas, keys=UNLUCKY_KEYS, requests=200_000, share=0.5, ratio=2.0, replicas=16
    )
    yield prom("— wrong: the same, first requests of each of 16 replicas", apart, right=False, batch=50, least=1000)
    yield prom("— wrong: first events for promotion", keyed(FEW_KEYS, ratio=2.0), right=False, batch=100, least=1000)
    slow = partial(slow_requests, requests=200_000, share=0.5, slower=1.25, tolerance=1.25, refresh=2000)
    yield prom("latency exactly at the margin (p95, ×1.25)", slow, margin=1.0, batch=125)
    heavy = partial(slow, tail=1.1, diurnal=0.5)
    yield prom("the same, heavy-tailed (Pareto 1.1) and diurnal", heavy, margin=1.0, batch=125)
    yield Null("quality exactly 0.02 lower, ramp, drift, 30 % missing", "promotion", True,
               partial(label_long, predictions=50_000, drop=0.02, direction=+1), 500)  # fmt: skip
    name = "— wrong: labels in order of arrival, good ones known sooner, 6,000 predictions"
    yield Null(name, "promotion", False, label_promote_by_arrival, 250, 1000)
    yield Null("rare errors, excess above the bound by day, strata", "promotion", True, partial(_strata, pooled=False))
    yield Null("— wrong: day and night pooled", "promotion", False, partial(_strata, pooled=True), 250, 1000)
    once, always = partial(_split, per_request=False), partial(_split, per_request=True)
    yield Null("Zipf sticky keys, first request per key", "split", True, once, alpha=SPLIT_ALPHA)
    yield Null("— wrong: every request", "split", False, always, 250, 1000, SPLIT_ALPHA)
