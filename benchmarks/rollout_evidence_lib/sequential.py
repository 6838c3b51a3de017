"""Rules that look at every request or nearly so: ours, a published one, and the z-test that should not."""

from __future__ import annotations

import numpy as np
from scipy.special import betaln
from scipy.stats import norm

from benchmarks.rollout_evidence_lib.streams import ALPHA, AT
from benchmarks.rollout_evidence_lib.traffic import Traffic, first
from raymlops.rollout.evidence.rates import log_e_paths, rollback_ratios


def peeking_z(t: Traffic, alpha: float = ALPHA) -> np.ndarray:
    """A pooled one-sided two-proportion z-test at level α, looked at every 100 requests."""
    fields = (t.requests0, t.errors0, t.requests1, t.errors1)
    n0, x0, n1, x1 = (np.cumsum(x.astype(np.int64), axis=1)[:, 9::10] for x in fields)
    pooled = (x0 + x1) / (n0 + n1)
    scale = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / np.maximum(n0, 1) + 1 / np.maximum(n1, 1)))
    z = (x1 / np.maximum(n1, 1) - x0 / np.maximum(n0, 1)) / scale
    return first((z > norm.isf(alpha)) & (x0 + x1 > 0), 100)


def lindon_malek(t: Traffic) -> np.ndarray:
    """Anytime-valid test of the multinomial hypothesis (arXiv:2011.03567): Dirichlet(1, 1) mixture over the arm of an
    event against the known share, looked at every 10 requests. Two-sided, as published; rolls back if the candidate
    has more. The null share of a slot enters its likelihood, so a ramp keeps it valid."""
    x0, x1 = np.cumsum(t.errors0, axis=1, dtype=np.int64), np.cumsum(t.errors1, axis=1, dtype=np.int64)
    null = np.cumsum(t.errors1 * np.log(t.share) + t.errors0 * np.log1p(-t.share), axis=1)
    return first((betaln(1 + x1, 1 + x0) - null >= AT) & (x1 > t.share * (x0 + x1)), 10)


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
        hit = log_e >= AT
        found[rows] = np.where(hit.any(1), np.take_along_axis(at, hit.argmax(1)[:, None], 1)[:, 0], np.inf)
    return found
