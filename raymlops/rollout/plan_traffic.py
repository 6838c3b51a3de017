"""Simulated events of one candidate and control, for planning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymlops.rollout.evidence.numerics import Array

_MAX_KEYS = 50_000


@dataclass(frozen=True)
class Traffic:
    """One candidate against control. Rates are per request; `pace` is the part of all requests that goes to these two
    arms. Both methods return the request number (of all requests) and the arm of each event, shape (rollouts,
    events)."""

    share: float
    control: float
    candidate: float
    pace: float
    budget: float

    def unkeyed(self, rng: np.random.Generator, rows: int, most: int) -> tuple[Array, NDArray[np.int8]]:
        """Every request its own unit; not more events than matter are drawn."""
        bad = self.share * self.candidate
        rate = bad + (1.0 - self.share) * self.control
        expected = rate * self.pace * self.budget
        events = int(min(most, expected + 6.0 * math.sqrt(expected) + 10.0))
        at = np.cumsum(rng.exponential(1.0 / (rate * self.pace), (rows, events)), axis=1)
        return at, (rng.random((rows, events)) < bad / rate).astype(np.int8)

    def keyed(
        self, rng: np.random.Generator, rows: int, most: int, keys: int, *, first_requests: bool
    ) -> tuple[Array, NDArray[np.int8]]:
        """Keys that come back equally often: only a key's first event counts, or, for promotion, its first request.

        More than 50,000 keys are represented by 50,000 that are as many times as frequent.
        """
        drawn = max(1, min(round(keys * self.pace), _MAX_KEYS))
        arm = rng.random((rows, drawn)) < self.share
        rate = np.where(arm, self.candidate, self.control)
        between = drawn / self.pace
        at = rng.standard_exponential((rows, drawn)) * between
        at = np.where(rng.random((rows, drawn)) < rate, at, np.inf) if first_requests else at / rate
        at = np.where(at <= self.budget, at, np.inf)
        order = np.argsort(at, axis=1)[:, : max(1, min(most, int(np.isfinite(at).sum(axis=1).max())))]
        at = np.take_along_axis(at, order, axis=1)
        return at, np.where(np.isinf(at), -1, np.take_along_axis(arm, order, axis=1)).astype(np.int8)
