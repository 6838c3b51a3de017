"""Simulated labels: scores in [0, 1] of two arms, and when their evidence crosses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.stats import beta

from benchmarks.rollout_evidence_lib.streams import AT, RAMP, crossings
from raymlops.rollout.evidence.means import BET_FRACTIONS, mean_log_e_paths

_LEVELS, _POINTS, _CHUNK = 50, 1024, 80


def label_crossing(values, arms, shares, delta: float, direction: int, threshold: float) -> np.ndarray:
    """Number of predictions at which evidence from labels crosses, inf if never."""
    index = crossings(mean_log_e_paths(values, arms, shares, delta, direction), threshold)
    return np.where(index >= 0, index + 1.0, np.inf)


def labels(rng, n: int, predictions: int, drop: float, *, ramp: bool, same_shape: bool):
    """Scores, arms and shares. Control is Beta with mean 0.8, falling by 0.1 with the ramp; the candidate's mean is
    lower by `drop`, of the same shape or 0-1 valued. 30 % of labels are missing whatever their value."""
    progress = np.arange(predictions) / predictions
    shares = np.asarray(RAMP if ramp else (0.5,) * 4)[(progress * 4).astype(int)]
    arms = (rng.random((n, predictions)) < shares).astype(np.int8)
    mean = 0.8 - 0.1 * progress * ramp - drop * arms
    values = rng.beta(5 * mean, 5 * (1 - mean))
    if not same_shape:
        values = np.where(arms == 1, rng.random((n, predictions)) < mean, values)
    values[rng.random((n, predictions)) < 0.3] = np.nan
    return values, arms, shares


def in_order_of_arrival(rng, values, arms, shares, *, bad_first: bool):
    """The same labels, counted as they arrive: one side of 0.5 is known at once, the other up to 600 predictions
    later."""
    at_once = np.nan_to_num(values) < 0.5 if bad_first else np.nan_to_num(values) >= 0.5
    order = np.argsort(np.arange(values.shape[1]) + np.where(at_once, 0.0, 600.0 * rng.random(values.shape)), axis=1)
    return np.take_along_axis(values, order, 1), np.take_along_axis(arms, order, 1), shares[order]


def long_labels(rng, n: int, predictions: int, drop: float) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """The labels of `labels` with drift, ramp and one shape in chunks of (values, arms, share): for many predictions.

    Beta quantiles come from tables of 1,024 points; the candidate's are scaled so that the drop is exact."""
    points = (np.arange(_POINTS) + 0.5) / _POINTS
    per_level = predictions // _LEVELS
    for level in range(_LEVELS):
        mean = 0.8 - 0.1 * level / _LEVELS
        control, candidate = (beta.ppf(points, 5 * x, 5 * (1 - x)) for x in (mean, mean - drop))
        tables = np.concatenate([control, candidate * ((control.mean() - drop) / candidate.mean())])
        share = RAMP[level * 4 // _LEVELS]
        for start in range(0, per_level, _CHUNK):
            size = n, min(_CHUNK, per_level - start)
            arms = rng.random(size, dtype=np.float32) < share
            values = tables[rng.integers(0, _POINTS, size, dtype=np.uint16) + arms * np.uint16(_POINTS)]
            values[rng.random(size, dtype=np.float32) < 0.3] = np.nan
            yield values, arms, share


def chunks_cross(
    chunks: Iterable[tuple[np.ndarray, np.ndarray, float]], n: int, delta: float, direction: int, threshold: float
) -> np.ndarray:
    """Whether the evidence ever crosses, looking after every label: `mean_log_e_paths` in constant memory and without
    logarithms, by products inside a chunk."""
    total, count = np.zeros((n, 1)), np.zeros((n, 1))
    wealth = np.full((len(BET_FRACTIONS), n), 1.0 / len(BET_FRACTIONS))
    log_scale, crossed = np.zeros(n), np.zeros(n, bool)
    for values, arms, share in chunks:
        known = ~np.isnan(values)
        filled = np.where(known, values, 0.0)
        sums, counts = total + np.cumsum(filled, axis=1), count + np.cumsum(known, axis=1)
        guess = (sums - filled + 0.5) / (counts - known + 1.0)
        z = (filled - guess) * np.where(arms, 1.0 / share, -1.0 / (1.0 - share))
        bound = np.maximum(guess, 1.0 - guess) * max(1.0 / share, 1.0 / (1.0 - share)) + delta
        gain = np.where(known, direction * (z + delta), 0.0) / bound
        paths = np.cumprod(1.0 + BET_FRACTIONS[:, None, None] * gain, axis=2)
        top = np.einsum("jn,jnc->nc", wealth, paths).max(axis=1)
        crossed |= np.log(top) + log_scale >= threshold
        wealth *= paths[:, :, -1]
        scale = wealth.max(axis=0)
        wealth /= scale
        log_scale += np.log(scale)
        total, count = sums[:, -1:], counts[:, -1:]
    return crossed


def label_rollback(rng, n, *, same_shape: bool, arrival_order: bool = False) -> np.ndarray:
    """Bad labels are known at once, good ones up to 600 predictions later. The horizon of 400 loses some good ones of
    the same model; it is long enough for all if the candidate has the same mean and another shape."""
    values, arms, shares = labels(rng, n, 3000, 0.0, ramp=False, same_shape=same_shape)
    if arrival_order:
        values, arms, shares = in_order_of_arrival(rng, values, arms, shares, bad_first=True)
    elif same_shape:
        late = (np.nan_to_num(values) >= 0.5) & (600.0 * rng.random(values.shape) > 400.0)
        values = np.where(late, np.nan, values)
    return np.isfinite(label_crossing(values, arms, shares, 0.0, -1, AT))


def label_promote_by_arrival(rng, n) -> np.ndarray:
    values, arms, shares = labels(rng, n, 6000, 0.02, ramp=False, same_shape=False)
    values, arms, shares = in_order_of_arrival(rng, values, arms, shares, bad_first=False)
    return np.isfinite(label_crossing(values, arms, shares, 0.02, +1, AT))


def label_long(rng, n, predictions: int, drop: float, direction: int) -> np.ndarray:
    return chunks_cross(long_labels(rng, n, predictions, drop), n, drop, direction, AT)
