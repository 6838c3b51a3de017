"""Shared arithmetic, in log space."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def log_mixture(log_values: Array, log_prior: Array) -> Any:
    """log Σ_j π_j exp(v_j) over the last axis, without overflow. Shape (…, J) → (…)."""
    total = log_values + log_prior
    top = np.max(total, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(total - top), axis=-1)) + top[..., 0]


def uniform_log_prior(n: int) -> Array:
    return np.full(n, -np.log(n))


def tilted_share(ratio: Array | float, share: Array | float) -> Any:
    """q_r(w) = r·w / (r·w + 1 - w): chance that an event is the candidate's when its rate is r times control's."""
    return ratio * share / (ratio * share + 1.0 - share)
