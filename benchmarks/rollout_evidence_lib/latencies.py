"""Simulated latencies against a pooled threshold."""

from __future__ import annotations

import numpy as np

from benchmarks.rollout_evidence_lib.streams import Stream


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
    row, column = np.nonzero(hit)
    count = hit.sum(axis=1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    candidate = np.full((n, int(count.max())), -1, np.int8)
    candidate[row, place] = arm[row, column]
    at = np.full(candidate.shape, np.inf)
    at[row, place] = column + 1.0
    return Stream(candidate, np.zeros_like(candidate), at, (share,))
