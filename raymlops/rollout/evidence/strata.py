"""Promotion when events are too rare to compare rates: a bound on the candidate's excess, per time of day.

Without events there is no evidence about a ratio, but many clean requests do bound a difference. With Y the events in
a key's first m requests / m and A its arm, D = A·Y/w - (1-A)·Y/(1-w) has mean p₁ - p₀. If the excess is at least δ,
Π(1 + λ(δ - D)) with λ = c·w, c < 1, is a non-negative supermartingale, and it grows by log(1 + cwδ) with every clean
request (betting: Waudby-Smith & Ramdas, arXiv:2010.09686).

Each time-of-day stratum has its own process and all of them must agree: pooled over a day, a candidate that is worse at
night hides behind the volume of the day. A stratum without enough traffic therefore delays promotion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from raymlops.rollout.evidence.numerics import Array, log_mixture, uniform_log_prior

BET_FRACTIONS: Array = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
LOG_PRIOR = uniform_log_prior(len(BET_FRACTIONS))
_DAY_SECONDS = 86_400.0


def stratum_of(routed_at: float, strata: int) -> int:
    """The part of the (UTC) day, 0 … strata - 1, in which a request was routed."""
    return int(routed_at % _DAY_SECONDS / _DAY_SECONDS * strata)


def log_e_from_counts(
    share: float, delta: float, clean: ArrayLike, control_events: ArrayLike, candidate_events: ArrayLike
) -> Array:
    """log of the products for one share: they depend on counts of first requests only. Counts of shape S give (*S, J),
    one value per bet fraction."""
    bet = BET_FRACTIONS * share
    clean, control_events, candidate_events = (
        np.asarray(n)[..., None] for n in (clean, control_events, candidate_events)
    )
    return np.asarray(
        clean * np.log1p(bet * delta)
        + candidate_events * np.log1p(bet * (delta - 1.0 / share))
        + control_events * np.log1p(bet * (delta + 1.0 / (1.0 - share)))
    )


class ExcessEvidence:
    """E-process per stratum for "the candidate's excess over control is at least `delta`"."""

    def __init__(self, delta: float, strata: int) -> None:
        self.delta, self.strata = delta, strata
        self._counts: dict[tuple[int, float, float], int] = {}
        """Units by stratum, share and ±Y: minus for control."""

    def add(self, routed_at: float, share: float, candidate: bool, n: int = 1, part: float = 0.0) -> None:
        """Counts n first requests of an arm with Y = `part`: 0 if nothing happened, 1 for an event."""
        at = (stratum_of(routed_at, self.strata), share, part if candidate else 0.0 - part)
        self._counts[at] = self._counts.get(at, 0) + n

    def log_e_by_stratum(self) -> dict[int, float]:
        terms: dict[int, Array] = {}
        for (stratum, share, signed), n in sorted(self._counts.items()):
            difference = signed / share if signed > 0.0 else signed / (1.0 - share)
            more = n * np.log1p(BET_FRACTIONS * share * (self.delta - difference))
            terms[stratum] = terms.get(stratum, np.zeros_like(BET_FRACTIONS)) + more
        return {stratum: float(log_mixture(value, LOG_PRIOR)) for stratum, value in terms.items()}

    def log_e(self) -> float:
        """The weakest stratum; a stratum in which nothing was routed yet has 0 and so withholds promotion."""
        found = self.log_e_by_stratum()
        return min(found.values()) if len(found) == self.strata else min([0.0, *found.values()])

    def to_dict(self) -> dict[str, Any]:
        return {"counts": [[*at, n] for at, n in sorted(self._counts.items())]}

    def load(self, data: dict[str, Any]) -> None:
        self._counts = {(stratum, share, signed): n for stratum, share, signed, n in data["counts"]}
