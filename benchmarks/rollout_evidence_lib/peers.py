"""Part 3: the decision rules of public tools on the same traffic.

One hour at 10 requests a second, every request its own unit, one metric (errors). A rule sees what its documentation
says that it looks at. Where a default is documented it is used; what had to be chosen is said in `note`. Rules that
only know the canary's own rate get the threshold of their documentation's example: a team that knows its rate would
choose it, and they are shown again with one chosen for this traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln
from scipy.stats import norm

from benchmarks.rollout_evidence_lib.nulls import ALPHA
from raymlops.rollout.evidence.rates import log_e_paths, rollback_ratios

MINUTES, PER_MINUTE = 60, 600
_AT = float(np.log(1.0 / ALPHA))


@dataclass(frozen=True)
class Traffic:
    """Requests and errors per rollout and slot of ten requests, by arm; `share` per slot. Shapes (n, slots),
    (slots,)."""

    requests1: np.ndarray
    errors0: np.ndarray
    errors1: np.ndarray
    share: np.ndarray

    @property
    def requests0(self) -> np.ndarray:
        return 10 - self.requests1

    def per(self, minutes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(requests0, errors0, requests1, errors1) per window of so many minutes."""
        shape = (len(self.errors0), -1, minutes * PER_MINUTE // 10)
        fields = (self.requests0, self.errors0, self.requests1, self.errors1)
        return tuple(x.reshape(shape).sum(axis=2) for x in fields)  # type: ignore[return-value]


def traffic(rng, n: int, rate: np.ndarray, ratio: float, share: np.ndarray) -> Traffic:
    requests1 = rng.binomial(10, share, (n, len(share))).astype(np.int16)
    bad1 = rng.binomial(requests1, np.minimum(rate * ratio, 1.0)).astype(np.int16)
    return Traffic(requests1, rng.binomial(10 - requests1, rate).astype(np.int16), bad1, share)


def _first(hit: np.ndarray, requests: int) -> np.ndarray:
    """Requests until the first True of each row, when each column stands for so many requests."""
    return np.where(hit.any(axis=1), (hit.argmax(axis=1) + 1.0) * requests, np.inf)


def _rate(errors: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """Error rate; a window without requests has no data and passes."""
    return np.where(requests > 0, errors / np.maximum(requests, 1), 0.0)


def argo(t: Traffic, success: float, interval: int, failure_limit: int) -> np.ndarray:
    _, _, requests, errors = t.per(interval)
    failed = np.cumsum(1.0 - _rate(errors, requests) < success, axis=1)
    return _first(failed > failure_limit, interval * PER_MINUTE)


def flagger(t: Traffic, success: float, threshold: int) -> np.ndarray:
    _, _, requests, errors = t.per(1)
    return _first(np.cumsum(1.0 - _rate(errors, requests) < success, axis=1) >= threshold, PER_MINUTE)


def alarm(t: Traffic, limit: float, periods: int, of: int) -> np.ndarray:
    _, _, requests, errors = t.per(1)
    breach = np.cumsum(_rate(errors, requests) > limit, axis=1)
    recent = breach - np.concatenate([np.zeros((len(breach), of), int), breach[:, :-of]], axis=1)
    return _first(recent >= periods, PER_MINUTE)


def kayenta(t: Traffic, interval: int, confidence: float = 0.98, fraction: float = 0.25) -> np.ndarray:
    """NetflixACAJudge on the error rate per minute: every `interval` minutes over the data since the start.

    Fails if the confidence interval of the Hodges–Lehmann shift lies above `fraction` of its estimate. The interval
    comes from the normal approximation of the order statistics of the pairwise differences, as R's wilcox.test for
    tied data.
    """
    requests0, errors0, requests1, errors1 = t.per(1)
    control, canary = _rate(errors0, requests0), _rate(errors1, requests1)
    found = np.full(len(control), np.inf)
    z = norm.ppf(1 - (1 - confidence) / 2)
    for m in range(interval, MINUTES + 1, interval):
        for i in np.flatnonzero(np.isinf(found)):
            shifts = np.sort((canary[i, :m, None] - control[i, None, :m]).ravel())
            low = int(np.floor(m * m / 2 - z * np.sqrt(m * m * (2 * m + 1) / 12)))
            if low >= 1 and shifts[low - 1] > fraction * abs(np.median(shifts)):
                found[i] = m * PER_MINUTE
    return found


def peeking_z(t: Traffic, alpha: float = ALPHA) -> np.ndarray:
    """A pooled one-sided two-proportion z-test at level α, looked at every 100 requests."""
    fields = (t.requests0, t.errors0, t.requests1, t.errors1)
    n0, x0, n1, x1 = (np.cumsum(x.astype(np.int64), axis=1)[:, 9::10] for x in fields)
    pooled = (x0 + x1) / (n0 + n1)
    scale = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / np.maximum(n0, 1) + 1 / np.maximum(n1, 1)))
    z = (x1 / np.maximum(n1, 1) - x0 / np.maximum(n0, 1)) / scale
    return _first((z > norm.isf(alpha)) & (x0 + x1 > 0), 100)


def lindon_malek(t: Traffic) -> np.ndarray:
    """Anytime-valid test of the multinomial hypothesis (arXiv:2011.03567): Dirichlet(1, 1) mixture over the arm of an
    event against the known share, looked at every 10 requests. Two-sided, as published; rolls back if the candidate
    has more. The null share of a slot enters its likelihood, so a ramp keeps it valid."""
    x0, x1 = np.cumsum(t.errors0, axis=1, dtype=np.int64), np.cumsum(t.errors1, axis=1, dtype=np.int64)
    null = np.cumsum(t.errors1 * np.log(t.share) + t.errors0 * np.log1p(-t.share), axis=1)
    return _first((betaln(1 + x1, 1 + x0) - null >= _AT) & (x1 > t.share * (x0 + x1)), 10)


def raymlops(t: Traffic) -> np.ndarray:
    """Ours, looked at every 10 requests; the events of a slot in random order."""
    rng = np.random.default_rng(0)
    shares = tuple(dict.fromkeys(t.share.tolist()))
    epoch_of_slot = np.array([shares.index(x) for x in t.share.tolist()])
    events = t.errors0 + t.errors1
    size = int(events.sum(axis=1).max())
    found = np.empty(len(events))
    for i in range(0, len(events), 250):
        rows = slice(i, i + 250)
        candidate = np.full((len(events[rows]), size), -1, np.int8)
        epoch = np.zeros_like(candidate)
        at = np.full(candidate.shape, np.inf)
        for j, (bad0, bad1) in enumerate(zip(t.errors0[rows], t.errors1[rows], strict=True)):
            slots = np.repeat(np.arange(events.shape[1]), bad0 + bad1)
            within = np.concatenate(
                [np.repeat(np.arange(events.shape[1]), bad1), np.repeat(np.arange(events.shape[1]), bad0)]
            )
            arms = np.repeat([1, 0], [bad1.sum(), bad0.sum()])
            order = np.lexsort((rng.random(len(within)), within))
            candidate[j, : len(slots)], epoch[j, : len(slots)] = arms[order], epoch_of_slot[slots]
            at[j, : len(slots)] = (slots + 1) * 10
        log_e = log_e_paths(candidate, shares, epoch, rollback_ratios(), restarts=True)
        hit = log_e >= _AT
        found[rows] = np.where(hit.any(1), np.take_along_axis(at, hit.argmax(1)[:, None], 1)[:, 0], np.inf)
    return found


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
    yield Rule("Argo Rollouts, 98 %, failureLimit 0", lambda t: argo(t, 0.98, 5, 0), "failureLimit at its default 0")
    yield Rule("Flagger, documented example", lambda t: flagger(t, 0.99, 10),
               "request-success-rate ≥ 99 every minute, threshold 10 failed checks")  # fmt: skip
    yield Rule("Flagger, tuned to 97.5 %", lambda t: flagger(t, 0.975, 10), "the same with ≥ 97.5")
    yield Rule("Kayenta, judged every 10 min", lambda t: kayenta(t, 10),
               "Mann–Whitney at 0.98, tolerance 0.25, pass score 95, data from the start", 1_000)  # fmt: skip
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
