"""Simulated traffic: a reference of 28 days, and windows after it, of 20 independent normal columns.

A window is a day. Its columns are shifted by a benign jitter or by an effect of the day, which the reference's days
have as well, and one column by drift. Shifts are in standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import ndtr

from raymlops.monitoring import Counts, Layout, Reference, layout_of_rows

COLUMNS, DAYS, REFERENCE_ROWS = 20, 28, 100_000
DAY = np.datetime64("2024-01-01", "us")


@dataclass(frozen=True)
class Scenario:
    name: str
    jitter: float = 0.0
    """Of every window and column anew; the reference has none."""
    effect: float = 0.0
    """Of every day and column anew, in the reference too."""
    carried: float = 0.0
    """Correlation of a day's effect with that of the day before."""
    heavy: bool = False
    """Effects have Student's t distribution with 3 degrees of freedom instead of a normal one."""

    @property
    def independent(self) -> bool:
        """Whether somebody who knows the traffic would call rows of one day independent."""
        return self.effect == 0.0


class Shifts:
    """Shifts of the columns, day after day."""

    def __init__(self, rng: np.random.Generator, scenario: Scenario) -> None:
        self.rng, self.scenario, self._last = rng, scenario, rng.normal(size=COLUMNS)

    def next(self, jitter: bool = True) -> np.ndarray:
        s = self.scenario
        fresh = self.rng.standard_t(3, size=COLUMNS) / np.sqrt(3.0) if s.heavy else self.rng.normal(size=COLUMNS)
        self._last = s.carried * self._last + np.sqrt(1.0 - s.carried**2) * fresh
        return s.effect * self._last + (s.jitter * self.rng.normal(size=COLUMNS) if jitter else 0.0)


def reference_rows(rng: np.random.Generator, shifts: Shifts, rows: int = REFERENCE_ROWS) -> np.ndarray:
    """(rows, COLUMNS), day after day."""
    per_day = rows // DAYS
    return np.concatenate([rng.normal(size=(per_day, COLUMNS)) + shifts.next(jitter=False) for _ in range(DAYS)])


def reference_of(rows: np.ndarray, independent: bool) -> Reference:
    table = pa.table({f"x{i:02d}": column for i, column in enumerate(rows.T)})
    times = DAY + (np.arange(len(rows)) * DAYS // len(rows)).astype("timedelta64[D]")
    layout = layout_of_rows(table)
    return Reference.of_counts(Counts.by_day(layout, table, times), independent=independent)


def day_name(number: int) -> str:
    """The name of a window, counted from the first after the reference."""
    return str(np.datetime64("2024-02-01") + number)


def drawn_counts(rng: np.random.Generator, layout: Layout, window: str, rows: int, shift: np.ndarray) -> Counts:
    """The counts of `rows` rows with these shifts, drawn without drawing the rows."""
    cells = []
    for part, moved in zip(layout.features, shift, strict=True):
        below = ndtr(np.array(part.edges) - moved)
        cells.append(np.append(rng.multinomial(rows, np.diff(below, prepend=0.0, append=1.0)), 0))
    return Counts(layout, {(window, 0): np.concatenate(cells)})
