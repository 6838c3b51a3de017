"""An hour of traffic, as the rules of public tools see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MINUTES, PER_MINUTE = 60, 600


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


def first(hit: np.ndarray, requests: int) -> np.ndarray:
    """Requests until the first True of each row, when each column stands for so many requests."""
    return np.where(hit.any(axis=1), (hit.argmax(axis=1) + 1.0) * requests, np.inf)
