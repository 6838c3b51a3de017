"""Part 2: how many requests a decision needs, beside the least that any test could need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from benchmarks.rollout_evidence_lib import streams as s
from benchmarks.rollout_evidence_lib.labels import label_crossing
from benchmarks.rollout_evidence_lib.latencies import slow_requests
from benchmarks.rollout_evidence_lib.nulls import HEAVY
from benchmarks.rollout_evidence_lib.streams import AT
from raymlops.rollout.evidence.numerics import tilted_share
from raymlops.rollout.evidence.rates import promotion_ratios, rollback_ratios


@dataclass(frozen=True)
class Case:
    name: str
    floor: float
    """log(1/α) over the information per request: no valid test has a lower mean."""
    target: float | None
    run: Callable[[np.random.Generator, int], np.ndarray]
    """Requests to the decision for n rollouts, inf if none came."""


def event_floor(rate: float, ratio: float, share: float, null_ratio: float = 1.0) -> float:
    """log(1/α) / (events per request × KL of the arm of an event under `ratio` from that under `null_ratio`)."""
    q, q0 = tilted_share(ratio, share), tilted_share(null_ratio, share)
    divergence = q * np.log(q / q0) + ((1 - q) * np.log((1 - q) / (1 - q0)) if q < 1 else 0.0)
    return float(AT / (rate * (1 + (ratio - 1) * share) * divergence))


def label_floor(mean0: float, mean1: float, share: float, concentration: float = 5.0) -> float:
    """log(1/α) over the growth of the best constant bet of a bettor who knows all distributions."""
    rng = np.random.default_rng(0)
    arm = rng.random(400_000) < share
    mean = np.where(arm, mean1, mean0)
    y = rng.beta(concentration * mean, concentration * (1 - mean))
    z = (y - (share * mean1 + (1 - share) * mean0)) * np.where(arm, 1 / share, -1 / (1 - share))
    growth = minimize_scalar(lambda b: -np.mean(np.log1p(-b * z)), bounds=(0.0, 0.98 / z.max()), method="bounded")
    return float(AT / -growth.fun)


def _errors(rate: float, ratio: float, share: float, requests: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        stream = s.unkeyed(rng, n, requests, lambda x: np.full_like(x, rate), ratio, (share,))
        return s.decide(stream, rollback_ratios(), 1.0, AT, restarts=True)

    return run


def _slow(
    slower: float, share: float, requests: int, seed: int = 2000
) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        refresh = min(500, requests)
        stream = slow_requests(rng, n, requests, share=share, slower=slower, refresh=refresh, seed=seed)
        return s.decide(stream, rollback_ratios(), 1.0, AT, restarts=True)

    return run


def _slow_floor(slower: float, share: float, sigma: float = 0.5) -> float:
    rate = float(norm.sf(norm.ppf(0.95) - np.log(slower) / sigma))
    return event_floor(0.05, rate / 0.05, share)


def _quality(share: float, labels: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        arms = (rng.random((n, labels)) < share).astype(np.int8)
        mean = np.where(arms, 0.75, 0.80)
        return label_crossing(rng.beta(5 * mean, 5 * (1 - mean)), arms, np.full(labels, share), 0.0, -1, AT)

    return run


def _promotion(margin: float, share: float, requests: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        stream = s.unkeyed(rng, n, requests, lambda x: np.full_like(x, 0.01), 1.0, (share,))
        return s.decide(stream, promotion_ratios(margin), margin, AT, restarts=False)

    return run


def _heavy(number: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        stream = s.blocks(rng, n, HEAVY, 200_000, 2.0, number)
        return s.decide(stream, rollback_ratios(), 1.0, AT, restarts=True)

    return run


REGULARS = s.Keys(np.zeros(1500), np.full(1500, 1 / 1500), np.full(1500, 0.05))


def _windows(m: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def run(rng, n):
        stream = s.first_windows(rng, n, REGULARS, 60_000, (0.5,), 1.0, m, 15_000.0 if m > 1 else 0.0)
        return s.decide(stream, promotion_ratios(2.0), 2.0, AT, restarts=False)

    return run


def _late(restarts: bool) -> Callable[[np.random.Generator, int], np.ndarray]:
    """50,000 good requests, then three times the errors: requests after the change."""

    def run(rng, n):
        good, change = 500, 50_000.0
        size = 2500
        candidate = rng.random((n, size)) < np.where(np.arange(size) < good, 0.5, 0.75)
        gaps = rng.exponential(np.where(np.arange(size) < good, 100.0, 50.0), (n, size))
        at = np.cumsum(gaps, axis=1)
        at = at - at[:, good - 1 : good] + change
        stream = s.Stream(candidate.astype(np.int8), np.zeros((n, size), np.int8), at, (0.5,))
        found = s.decide(stream, rollback_ratios(), 1.0, AT, restarts=restarts)
        return np.where(found > change, found - change, np.nan)

    return run


def cases() -> Iterator[Case]:
    yield Case("errors 1 % → 3 %, 50/50", event_floor(0.01, 3, 0.5), 2000, _errors(0.01, 3, 0.5, 16_000))
    yield Case("errors 1 % → 3 %, 10 %", event_floor(0.01, 3, 0.1), None, _errors(0.01, 3, 0.1, 40_000))
    yield Case(
        "total failure (0.1 % → 100 %), 10 %", event_floor(0.001, 1000, 0.1), 60, _errors(0.001, 1000, 0.1, 1000)
    )
    yield Case("×1.2 slower, seeded p95, 50/50", _slow_floor(1.2, 0.5), 1500, _slow(1.2, 0.5, 16_000))
    yield Case("×2 slower, seeded p95, 50/50", _slow_floor(2.0, 0.5), 80, _slow(2.0, 0.5, 2000))
    yield Case(
        "×2 slower, threshold not seeded (20 values)", _slow_floor(2.0, 0.5), None, _slow(2.0, 0.5, 4000, seed=20)
    )
    yield Case("quality 0.80 → 0.75 (Beta scores), 50/50", label_floor(0.8, 0.75, 0.5), 800, _quality(0.5, 4000))
    yield Case("quality 0.80 → 0.75 (Beta scores), 10 %", label_floor(0.8, 0.75, 0.1), None, _quality(0.1, 10_000))
    promote = event_floor(0.01, 1.0, 0.5, 2.0)
    yield Case("promote equal, 1 % errors, margin 2×, 50/50", promote, 11_000, _promotion(2.0, 0.5, 100_000))
    promote = event_floor(0.01, 1.0, 0.1, 2.0)
    yield Case("promote equal, 1 % errors, margin 2×, 10 %", promote, None, _promotion(2.0, 0.1, 150_000))
    promote = event_floor(0.01, 1.0, 0.5, 3.0)
    yield Case("promote equal, 1 % errors, margin 3×, 50/50", promote, None, _promotion(3.0, 0.5, 60_000))
    promote = event_floor(0.05, 1.0, 0.5, 2.0)
    for m in (1, 4):
        name = f"promote equal, 1,500 keys with 40 requests each, 5 % errors, first {m} request{'s' * (m > 1)}"
        yield Case(name, promote, None, _windows(m))
    for number in (1, 8):
        name = f"500 heavy keys, errors 2 % → 4 %, {number} block{'s' * (number > 1)} in 200,000 requests"
        yield Case(name, event_floor(0.02, 2, 0.5), None, _heavy(number))
    late = event_floor(0.01, 3, 0.5)
    yield Case("1 % → 3 % after 50,000 good requests, restarts", late, None, _late(True))
    yield Case("1 % → 3 % after 50,000 good requests, no restarts", late, None, _late(False))
