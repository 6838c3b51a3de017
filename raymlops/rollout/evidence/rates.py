"""Evidence from event rates: is the candidate worse (rollback), is it not worse than the margin (promotion)?

Rollback, Lindon & Malek (2022, arXiv:2011.03567) with per-key first events. Given that some key has its first event
now, in an epoch with candidate share w, the key is the candidate's with probability q_ρ(w) = ρw/(ρw + 1 - w) if the
candidate's hazard is ρ times control's, whatever the hazards are, however they differ between keys and drift in time:
what both arms share cancels in the ratio. So for every r the product of [q_r/q_ρ]^b [(1-q_r)/(1-q_ρ)]^(1-b) over first
events (b = 1: candidate) is a non-negative martingale with mean 1, and so is its mixture over r (Turner, Ly &
Grünwald, arXiv:2106.02693, for the mixture). A candidate with a hazard between control's and ρ times control's only
makes it smaller in mean.

Promotion must not use first events: when candidates have more events their keys are used up faster and the odds among
*first* events shrink towards the candidate's favour. It uses Y = the events in the key's first m requests / m (each key
once), which has mean p₁ or p₀ whatever came before: 1 + Y(f_A - 1) with f₁ = q_r/q_ρ, f₀ = (1-q_r)/(1-q_ρ), r < ρ has
mean 1 + (q_ρ-q_r)·[(1-w)p₀/(1-q_ρ) - w·p₁/q_ρ] ≤ 1 exactly when p₁ ≥ ρ·p₀, and is above 0 because Y is in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymlops.rollout.evidence.numerics import Array, log_mixture, tilted_share, uniform_log_prior

RESTART_EVERY = 32
"""Pooled first events between two restarts of the rollback evidence."""

RESTART_MASS = 0.1
"""Prior mass of all restarts together; the start of the rollout has the rest (it costs log(1/0.9) = 0.1 nats)."""


def rollback_ratios(tolerance: float = 1.0, n: int = 40) -> Array:
    """The alternatives r > ρ, from 1.2ρ to 50ρ, evenly spaced in the logarithm."""
    return np.geomspace(1.2 * tolerance, 50.0 * tolerance, n)


def promotion_ratios(margin: float, n: int = 16) -> Array:
    """The alternatives r < ρ = `margin`, from 0.25ρ to 0.9ρ: a candidate clearly on the good side of the margin."""
    return np.geomspace(0.25 * margin, 0.9 * margin, n)


def split_ratios() -> Array:
    """Alternatives on both sides of 1, fine near it: for sample ratios and for missing labels."""
    steps = np.array([0.01, 0.03, 0.1, 0.3, 0.9, 2.5])
    return np.asarray(np.exp(np.concatenate([-steps[::-1], steps])))


def log_factors(share: float, ratios: Array, tolerance: float, part: float = 1.0) -> Array:
    """log(1 + Y(f - 1)) with Y = `part`, for control (row 0) and the candidate (row 1). Shape (2, J)."""
    q, q0 = tilted_share(ratios, share), tilted_share(tolerance, share)
    factors = np.stack([(1.0 - q) / (1.0 - q0), q / q0])
    return np.asarray(np.log(factors) if part == 1.0 else np.log1p(part * (factors - 1.0)))


def log_restart_prior(restart: int) -> float:
    """log γ of the start (0) and of restart 1, 2, …: γ₀ = 0.9 and γ_j = 0.1/(j(j+1)), which sum to 1."""
    return float(np.log(1.0 - RESTART_MASS) if restart == 0 else np.log(RESTART_MASS / (restart * (restart + 1.0))))


class RateEvidence:
    """E-process for one metric and one candidate: counts of events since the last restart, and the rest folded.

    Σ_j γ_j E_{j:t} over restarts j obeys M ← M·f, and M ← M + γ_j at a restart, for each ratio r: no history is kept.
    Without restarts this is the plain mixture. The result does not depend on how events were batched into reports,
    because counts are integers and folding happens at fixed numbers of pooled events.
    """

    def __init__(self, ratios: Array, tolerance: float = 1.0, *, restarts: bool = False) -> None:
        self.ratios, self.tolerance, self.restarts = ratios, tolerance, restarts
        self._log_prior = uniform_log_prior(len(ratios))
        self._factors: dict[tuple[float, float], Array] = {}
        self._folded = np.full(len(ratios), log_restart_prior(0) if restarts else 0.0)
        self._counts: dict[tuple[float, float], list[int]] = {}
        self._restart = 0

    def add(self, share: float, candidate: bool, n: int = 1, part: float = 1.0) -> None:
        """Counts n units of one arm with Y = `part`, 1 for an event; `share` is the candidate's share against control
        in the epoch of routing."""
        self._counts.setdefault((share, part), [0, 0])[candidate] += n

    def fold(self) -> None:
        """A restart: moves the counts into the folded process and adds a new start to the mixture."""
        self._folded = self._log_terms()
        self._counts = {}
        self._restart += 1
        self._folded = np.logaddexp(self._folded, log_restart_prior(self._restart))

    def log_e(self) -> float:
        return float(log_mixture(self._log_terms(), self._log_prior))

    def _log_terms(self) -> Array:
        terms = self._folded.copy()
        for at in sorted(self._counts):
            factors = self._factors.get(at)
            if factors is None:
                factors = self._factors[at] = log_factors(at[0], self.ratios, self.tolerance, at[1])
            control, candidate = self._counts[at]
            terms += control * factors[0]
            terms += candidate * factors[1]
        return terms

    def to_dict(self) -> dict[str, Any]:
        counts = [[*at, *self._counts[at]] for at in sorted(self._counts)]
        return {"restart": self._restart, "folded": self._folded.tolist(), "counts": counts}

    def load(self, data: dict[str, Any]) -> None:
        self._restart, self._folded = data["restart"], np.array(data["folded"])
        self._counts = {(share, part): [control, candidate] for share, part, control, candidate in data["counts"]}


def log_e_paths(
    candidate: NDArray[Any],
    shares: Sequence[float],
    epochs: NDArray[Any],
    ratios: Array,
    tolerance: float = 1.0,
    *,
    restarts: bool = False,
    parts: Sequence[float] | None = None,
) -> Array:
    """The same e-process along many event streams at once, for planning and simulation.

    `candidate` and `epochs` have shape (N, T): 1, 0 or -1 (no event, evidence unchanged), and the index into `shares`
    (and into `parts`, the Y of each, 1 if not given). Returns log E after each event, shape (N, T).
    """
    parts = parts or (1.0,) * len(shares)
    table = np.stack([log_factors(w, ratios, tolerance, part) for w, part in zip(shares, parts, strict=True)])
    table = np.concatenate([table, np.zeros((len(shares), 1, len(ratios)))], axis=1)
    log_prior = uniform_log_prior(len(ratios))
    n, length = candidate.shape
    state = np.full((n, len(ratios)), log_restart_prior(0) if restarts else 0.0)
    out = np.empty((n, length))
    for chunk, start in enumerate(range(0, length, RESTART_EVERY), start=1):
        stop = min(start + RESTART_EVERY, length)
        steps = table[epochs[:, start:stop].astype(np.intp), candidate[:, start:stop].astype(np.intp)]
        path = state[:, None, :] + np.cumsum(steps, axis=1)
        out[:, start:stop] = log_mixture(path, log_prior)
        state = path[:, -1]
        if restarts:
            state = np.logaddexp(state, log_restart_prior(chunk))
    return out
