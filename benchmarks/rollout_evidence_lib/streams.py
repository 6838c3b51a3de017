"""Simulated event streams, one row per rollout, in the order in which a controller would see them.

Errors are rare, so streams are drawn event by event and not request by request: the number of events is Poisson, their
arms follow from the randomisation, and every stream says at which request each event happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raymlops.rollout.evidence.means import mean_log_e_paths
from raymlops.rollout.evidence.rates import log_e_paths

RAMP = (0.05, 0.10, 0.25, 0.50)


@dataclass
class Stream:
    """`candidate`: 1, 0, or -1 behind the end; `epoch`: index into `shares`; `at`: request number (inf behind the
    end)."""

    candidate: np.ndarray
    epoch: np.ndarray
    at: np.ndarray
    shares: tuple[float, ...]


def crossings(log_e: np.ndarray, threshold: float) -> np.ndarray:
    """Index of the first value at or above the threshold in each row, -1 if there is none."""
    hit = log_e >= threshold
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)


def decide(stream: Stream, ratios: np.ndarray, tolerance: float, threshold: float, *, restarts: bool) -> np.ndarray:
    """Request number at which the evidence crosses the threshold, inf if never."""
    index = crossings(
        log_e_paths(stream.candidate, stream.shares, stream.epoch, ratios, tolerance, restarts=restarts), threshold
    )
    at = np.take_along_axis(stream.at, np.maximum(index, 0)[:, None], axis=1)[:, 0]
    return np.where(index >= 0, at, np.inf)


def by_time(at: np.ndarray, candidate: np.ndarray, epoch: np.ndarray, end: float, shares: tuple[float, ...]) -> Stream:
    """Sorts events by time and cuts them at `end`."""
    order = np.argsort(at, axis=1)
    at = np.take_along_axis(at, order, axis=1)
    late = at >= end
    keep = max(1, int((~late).sum(axis=1).max()))
    candidate = np.where(late, -1, np.take_along_axis(candidate, order, axis=1))[:, :keep].astype(np.int8)
    epoch = np.where(late, 0, np.take_along_axis(epoch, order, axis=1))[:, :keep].astype(np.int8)
    return Stream(candidate, epoch, np.where(late, np.inf, at)[:, :keep], shares)


def unkeyed(rng, n: int, requests: int, rate, ratio: float, shares: tuple[float, ...] = (0.5,)) -> Stream:
    """Every request its own unit. `rate` is control's event rate as a function of progress in [0, 1]; the epochs have
    equal numbers of requests; the candidate's rate is `ratio` times control's."""
    grid = (np.arange(1000) + 0.5) / 1000
    epoch = np.minimum((grid * len(shares)).astype(int), len(shares) - 1)
    w = np.asarray(shares)[epoch]
    pooled = np.broadcast_to(rate(grid), grid.shape) * (1.0 + (ratio - 1.0) * w)
    count = rng.poisson(pooled.sum() * requests / 1000, size=n)
    size = int(count.max())
    cell = rng.choice(1000, p=pooled / pooled.sum(), size=(n, size))
    at = (cell + rng.random((n, size))) / 1000 * requests
    at = np.where(np.arange(size) < count[:, None], at, np.inf)
    tilted = ratio * w / (ratio * w + 1 - w)
    candidate = rng.random((n, size)) < tilted[cell]
    return by_time(at, candidate, epoch[cell], requests, shares)


@dataclass
class Keys:
    """A population of sticky keys: events per request of the whole traffic (Zipf popularity × error rate of the
    key)."""

    hazard: np.ndarray
    popularity: np.ndarray
    error_rate: np.ndarray


def zipf_keys(rng, n_keys: int, mean_rate: float, exponent: float = 1.1, spread: float = 0.3) -> Keys:
    popularity = 1.0 / np.arange(1, n_keys + 1) ** exponent
    popularity /= popularity.sum()
    error_rate = rng.beta(spread, spread * (1.0 / mean_rate - 1.0), size=n_keys)
    return Keys(popularity * error_rate, popularity, error_rate)


def first_events(
    rng, n: int, keys: Keys, requests: int, shares, *, ratio: float = 1.0, replicas: int = 1, dedup: str = "global"
) -> Stream:
    """First events of sticky keys under a ramp, candidate hazard `ratio` times control's.

    Each replica sees a random part of a key's requests and reports every `requests`/400 requests at its own offset, so
    the ledger's order is not the true order. `dedup`: "global" (right: once per key, by ledger order), "arm" (once per
    key and arm), "replica" (once per key in each replica), "none" is `retry_storms`.
    """
    n_keys = len(keys.hazard)
    u = rng.random((n, n_keys, 1), dtype=np.float32)
    bounds = np.arange(1, len(shares)) * requests / len(shares)
    w = np.asarray(shares, dtype=np.float32)
    joins = np.searchsorted(w, u, side="right") * (requests / len(shares))
    hazard = np.maximum(keys.hazard, 1e-300)[None, :, None] / replicas
    unit = rng.standard_exponential((n, n_keys, replicas))
    at = unit / hazard
    after = at > joins
    at = np.where(after, joins + (at - joins) / ratio, at)
    arm = after.astype(np.int8)
    if dedup == "arm":
        again = joins + rng.standard_exponential((n, n_keys, replicas)) / (hazard * ratio)
        at = np.concatenate([np.where(after, np.inf, at), again], axis=2)
        arm = np.concatenate([np.zeros_like(arm), np.ones_like(arm)], axis=2)
    if dedup == "global" and replicas > 1:
        interval = requests / 400
        offset = rng.random((n, 1, replicas)) * interval
        ledger = np.ceil((at - offset) / interval) * interval + offset
        first = ledger.argmin(axis=2)[..., None]
        at, arm = np.take_along_axis(at, first, axis=2), np.take_along_axis(arm, first, axis=2)
        ledger = np.take_along_axis(ledger, first, axis=2)
    else:
        ledger = at
    epoch = np.searchsorted(bounds, at.reshape(n, -1), side="right")
    return by_time(
        np.where(at >= requests, np.inf, ledger).reshape(n, -1), arm.reshape(n, -1), epoch, np.inf, tuple(shares)
    )


def blocks(rng, n: int, keys: Keys, requests: int, ratio: float, number: int = 8) -> Stream:
    """First events per key and block at 50/50, each block with a fresh salt: every key counts again."""
    each = requests // number
    parts = [first_events(rng, n, keys, each, (0.5,), ratio=ratio) for _ in range(number)]
    at = np.concatenate([part.at + i * each for i, part in enumerate(parts)], axis=1)
    candidate = np.concatenate([part.candidate for part in parts], axis=1)
    return by_time(at, candidate, np.zeros_like(candidate), np.inf, (0.5,))


def first_requests(rng, n: int, keys: Keys, requests: int, shares, ratio: float) -> Stream:
    """Events in the first request of each key; a key's first request arrives at the pace of its popularity."""
    n_keys = len(keys.popularity)
    at = rng.standard_exponential((n, n_keys), dtype=np.float32) / keys.popularity.astype(np.float32)
    epoch = np.minimum((at / requests * len(shares)).astype(np.int64), len(shares) - 1)
    arm = rng.random((n, n_keys), dtype=np.float32) < np.asarray(shares, dtype=np.float32)[epoch]
    fails = rng.random((n, n_keys), dtype=np.float32) < keys.error_rate * np.where(arm, ratio, 1.0)
    return by_time(np.where(fails, at, np.inf), arm, epoch, requests, tuple(shares))


def retry_storms(rng, n: int, users: int, *, count_repeats: bool) -> Stream:
    """Outages that hit both arms: users fail, retry and fail again. Arms are per user (50/50)."""
    arm = rng.random((n, users)) < 0.5
    at = rng.random((n, users)) + rng.integers(0, 3, size=(n, users)) * 10.0
    if not count_repeats:
        return by_time(at, arm, np.zeros((n, users), np.int8), np.inf, (0.5,))
    retries = rng.poisson(4.0, size=(n, users))
    top = int(retries.max()) + 1
    all_at = at[..., None] + np.arange(top) * 0.05
    all_at = np.where(np.arange(top) <= retries[..., None], all_at, np.inf)
    arms = np.broadcast_to(arm[..., None], all_at.shape)
    flat = (n, users * top)
    return by_time(all_at.reshape(flat), arms.reshape(flat), np.zeros(flat, np.int8), np.inf, (0.5,))


def slow_requests(
    rng,
    n: int,
    requests: int,
    *,
    share: float,
    slower: float,
    sigma: float = 0.5,
    tail: float | None = None,
    diurnal: float = 0.0,
    quantile: float = 0.95,
    refresh: int = 1000,
    window: int = 4000,
    seed: int = 2000,
    tolerance: float = 1.0,
) -> Stream:
    """Exceedances of a pooled, seeded, rolling threshold. Latency is lognormal(0, sigma), or Pareto with index `tail`,
    times exp(diurnal · sin) over two days; the candidate's is `slower` times that, and divided by `tolerance` when
    pooled."""

    def draw(rows: int, columns: int, start: int) -> np.ndarray:
        if tail is None:
            x = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(sigma)
        else:
            x = rng.standard_exponential((rows, columns), dtype=np.float32) / np.float32(tail)
        return x + np.float32(diurnal) * np.sin((start + np.arange(columns)) * (4 * np.pi / requests)).astype(
            np.float32
        )

    pool = draw(n, seed, 0)
    hits, arms = [], []
    for start in range(0, requests, refresh):
        at = int(np.ceil(quantile * (pool.shape[1] - 1)))
        threshold = np.partition(pool, at, axis=1)[:, at, None]
        x = draw(n, refresh, start)
        arm = rng.random((n, refresh), dtype=np.float32) < share
        x = x + np.where(arm, np.float32(np.log(slower / tolerance)), np.float32(0))
        hits.append(x > threshold)
        arms.append(arm)
        pool = np.concatenate([pool, x], axis=1)[:, -window:]
    hit, arm = np.concatenate(hits, axis=1), np.concatenate(arms, axis=1)
    at = np.where(hit, np.arange(hit.shape[1]) + 1.0, np.inf)
    keep = int(hit.sum(axis=1).max())
    order = np.argsort(~hit, axis=1, kind="stable")[:, :keep]
    at, arm = np.take_along_axis(at, order, axis=1), np.take_along_axis(arm, order, axis=1)
    candidate = np.where(np.isinf(at), -1, arm).astype(np.int8)
    return Stream(candidate, np.zeros_like(candidate), at, (share,))


def label_crossing(values, arms, shares, delta: float, direction: int, threshold: float) -> np.ndarray:
    """Number of predictions at which evidence from labels crosses, inf if never."""
    index = crossings(mean_log_e_paths(values, arms, shares, delta, direction), threshold)
    return np.where(index >= 0, index + 1.0, np.inf)
