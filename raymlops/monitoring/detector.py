"""Shiryaev–Roberts e-detectors: change detection with a stated mean time to a false alarm.

Each component k bets, window after window, that the null is wrong in its own direction; its bets multiply wealth by E_k
with mean at most 1 while nothing has changed. M_k ← (M_k + 1)·E_k is the wealth of somebody who begins anew with one
unit every window, so M_k minus the number of windows is a supermartingale, and so is any weighted mean of the M_k with
weights that sum to 1. An alarm when the mean reaches A, and a fresh start then, therefore come A or more windows after
the last on average (Shin, Ramdas & Rinaldo, "E-detectors", arXiv:2203.03532). Averaging the M, not the E, keeps every
component's own best start: a mean of E would be accumulated by all together and loses most of the power.

A single odd day is no change. Where a window is a day, E is capped at A, and M a little below A where it was less than
a day's unit before: it takes two. A capped E has a mean of at most 1 as well and a smaller M does no harm, so nothing
is lost of the guarantee, and much is gained where days have heavier tails than the normal effects that drift and loss
detectors assume (t with 3 degrees of freedom at 0.1 σ: 1 instead of 48 alarms in 1,250 days).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymlops.errors import ConfigError
from raymlops.monitoring.margins import Array
from raymlops.monitoring.packing import STEP, Single, pack_fixed, rounded_down, unpack_fixed

FORGET_DAYS = 14
"""Usual days after which one odd day dates no change any more."""
LEAST = -20.0
"""Of log M: a wealth of less than e^-20 is none beside the unit that every window begins with."""


class ShiryaevRoberts:
    """M of all components, in logarithms, rounded down to 1/256 at the end of every window, which is what is stored: a
    restored detector goes on from the very same numbers, and a smaller M keeps the guarantee.

    `weights` (components,) need not sum to 1; `mean_windows` is A; `days` says that windows are days.
    """

    def __init__(self, weights: Array, mean_windows: float, days: bool = False) -> None:
        if not 1.0 < mean_windows < np.inf:
            raise ConfigError(f"mean_windows: expected a number of windows above 1, found {mean_windows!r}")
        with np.errstate(divide="ignore"):
            self.log_weights = np.log(weights / weights.sum())
        self.log_threshold = float(np.log(mean_windows))
        self.log_cap = self.log_threshold if days else np.inf
        self.restart()

    def restart(self) -> None:
        """All M are 0, as after an alarm."""
        self.log_m: Single = np.full(len(self.log_weights), -np.inf, np.float32)

    def close(self, log_e: Array, informed: NDArray[np.bool_] | bool = True) -> None:
        """Ends a window with these log E."""
        self.log_m = rounded_down(self.after(log_e, informed), LEAST)

    def capped(self, log_e: Array) -> Array:
        """log E as far as a single window counts."""
        return np.asarray(np.minimum(log_e, self.log_cap))

    def forgetting(self, usual: Array, most: Array | float = np.inf) -> Array:
        """What the evidence that dates a change loses in every window, (components,), beside what it loses by itself:
        `usual` is log E of a usual window, `most` the largest that a single one can be."""
        if not np.isfinite(self.log_cap):
            return np.zeros_like(usual)
        return np.maximum(0.0, np.minimum(most, self.log_cap) / FORGET_DAYS + usual)

    def after(self, log_e: Array, informed: NDArray[np.bool_] | bool = True) -> Single:
        """log M, (components,), if a window ended with these log E. Components that learn nothing from the window are
        left as they are: their M does not grow, so the argument above holds."""
        moved = np.logaddexp(self.log_m, 0.0) + self.capped(log_e)
        if np.isfinite(self.log_cap):
            moved = np.where(self.log_m < 0.0, np.minimum(moved, self.log_cap - 1.0 / STEP), moved)
        return np.where(informed, moved, self.log_m).astype(np.float32)

    def statistic(self, log_m: Single) -> float:
        """log of the weighted mean of M; an alarm is due at `log_threshold`."""
        return float(np.logaddexp.reduce(self.log_weights + log_m))

    def dump(self) -> str:
        return pack_fixed(self.log_m)

    def load(self, text: str) -> None:
        """What `dump` gave. Raises ValueError when it has another number of components."""
        self.log_m = unpack_fixed(text, self.log_m.shape)
