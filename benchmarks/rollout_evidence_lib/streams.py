"""Simulated event streams, one row per rollout, in the order in which a controller would see them.

Errors are rare, so streams are drawn event by event and not request by request: the number of events is Poisson, their
arms follow from the randomisation, and every stream says at which request each event happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raymlops.rollout.evidence.rates import log_e_paths

ALPHA = 0.01
AT = float(np.log(1.0 / ALPHA))
"""Where evidence decides, for one metric and one candidate."""
RAMP = (0.05, 0.10, 0.25, 0.50)


@dataclass
class Stream:
    """`candidate`: 1, 0, or -1 behind the end; `epoch`: index into `shares` and `parts` (Y, 1 if None); `at`: request
    number (inf behind the end)."""

    candidate: np.ndarray
    epoch: np.ndarray
    at: np.ndarray
    shares: tuple[float, ...]
    parts: tuple[float, ...] | None = None


def crossings(log_e: np.ndarray, threshold: float) -> np.ndarray:
    """Index of the first value at or above the threshold in each row, -1 if there is none."""
    hit = log_e >= threshold
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)


def decide(stream: Stream, ratios: np.ndarray, tolerance: float, threshold: float, *, restarts: bool) -> np.ndarray:
    """Request number at which the evidence crosses the threshold, inf if never."""
    args = stream.candidate, stream.shares, stream.epoch, ratios, tolerance
    index = crossings(log_e_paths(*args, restarts=restarts, parts=stream.parts), threshold)
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


def first_requests_of_replicas(rng, n: int, keys: Keys, requests: int, share: float, ratio: float, replicas: int):
    """What happens without deduplication over replicas: each counts its own first request of a key."""
    n_keys = len(keys.popularity)
    at = rng.standard_exponential((n, n_keys, replicas), dtype=np.float32)
    at *= (replicas / keys.popularity.astype(np.float32))[:, None]
    arm = np.broadcast_to(rng.random((n, n_keys, 1), dtype=np.float32) < share, at.shape)
    fails = rng.random(at.shape, dtype=np.float32) < keys.error_rate[:, None] * np.where(arm, ratio, 1.0)
    at, arm = np.where(fails, at, np.inf).reshape(n, -1), arm.reshape(n, -1)
    return by_time(at, arm, np.zeros(at.shape, np.int8), requests, (share,))


def first_windows(rng, n: int, keys: Keys, requests: int, shares, ratio: float, m: int, window: float) -> Stream:
    """Y = events in each key's first m requests / m: those within `window` requests of the whole traffic after its
    first, cut where the shares change. A unit counts when its window is over."""
    n_keys, each = len(keys.popularity), requests / len(shares)
    first = rng.standard_exponential((n, n_keys)) / keys.popularity
    epoch = np.minimum(first / each, len(shares) - 1).astype(np.int64)
    arm = rng.random((n, n_keys)) < np.asarray(shares)[epoch]
    open_for = np.minimum(window, np.maximum((epoch + 1) * each - first, 0.0))
    seen = 1 + np.minimum(rng.poisson(open_for * keys.popularity), m - 1)
    events = rng.binomial(seen, np.minimum(keys.error_rate * np.where(arm, ratio, 1.0), 1.0))
    at = np.where(events > 0, first + window, np.inf)
    found = by_time(at, arm, epoch * m + np.maximum(events, 1) - 1, requests + window, tuple(np.repeat(shares, m)))
    found.parts = tuple(np.tile(np.arange(1, m + 1) / m, len(shares)))
    return found


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
