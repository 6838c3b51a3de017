"""Which features moved, in which part of their range, how far, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymlops.monitoring.cells import NumericCells
from raymlops.monitoring.margins import Array, divergence
from raymlops.monitoring.packing import MOST, pack_counts, pack_fixed, rounded_down, unpack_counts, unpack_fixed
from raymlops.monitoring.reference import Reference

THOUSAND = 1000.0


@dataclass(frozen=True)
class CellShare:
    """Share of a feature's rows in one cell."""

    label: str
    expected: float
    found: float


@dataclass(frozen=True)
class Moved:
    """One feature of an alarm, over the windows since its evidence began to grow."""

    feature: str
    since: str
    """First of these windows: an estimate of when the change began."""
    rows: int
    evidence: float
    """log of the feature's own mean M."""
    split: str
    """The split whose share says most: the largest Kullback–Leibler divergence from the reference's."""
    expected: float
    """The reference's share of rows that answer yes to it, at the strata of these windows."""
    found: float
    change: float
    """Share of rows that lie in another cell than they would: total variation over the cells, in [0, 1]."""
    shift: float | None
    """Numeric features: by how many of the reference's standard deviations values moved up, see `normal_shift`."""
    cells: tuple[CellShare, ...]

    def __str__(self) -> str:
        far = "" if self.shift is None else f", values moved {self.shift:+.2f} σ"
        return (
            f"{self.feature}: {self.split} {self.expected:.1%} → {self.found:.1%}, {self.change:.1%} of rows in other "
            f"cells{far}, since {self.since} ({self.rows:,} rows)"
        )


class SinceChange:
    """Counts of each feature since its evidence began to grow, beside what the reference would have expected.

    That is since the last window after which not one of the feature's bets was ahead, as in a CUSUM of the best of them
    (Page 1954). M says nothing of it: it is above 1 whenever E is above 1/2. Bets that hardly lose on usual days would
    keep the memory of a single odd one for months; `ShiryaevRoberts.forgetting` makes it two weeks.
    """

    def __init__(self, reference: Reference, owner: NDArray[np.int64]) -> None:
        """`owner` is the feature of each bet, rising, (components,)."""
        self.layout = reference.layout
        self._starts = np.searchsorted(owner, np.arange(len(self.layout.features)))
        self._owner, self._ahead = owner, np.zeros(len(owner), np.float32)
        self._shares = reference.cells / self.layout.spread(np.maximum(self.layout.totals(reference.cells), 1))
        self.since = [""] * len(self.layout.features)
        self.found, self.expected = np.zeros((2, self.layout.size))

    def add(self, window: str, counts: Mapping[int, NDArray[np.int64]], gained: Array) -> None:
        """A closed window, and what each bet gained in it, (components,): log E as far as one window
        counts, less what is forgotten."""
        found, expected = self._both(counts)
        ahead = rounded_down(np.clip(self._ahead + gained, -MOST, MOST))
        growing = np.maximum.reduceat(ahead, self._starts) > 0.0
        self._ahead = np.where(growing[self._owner], ahead, np.float32(0.0))
        kept = self.layout.spread(growing)
        self.found = np.where(kept, self.found + found, 0.0)
        expected = np.where(kept, self.expected + expected, 0.0)
        self.expected = np.round(THOUSAND * expected) / THOUSAND  # as it is stored
        self.since = [(s or window) if grows else "" for s, grows in zip(self.since, growing, strict=True)]

    def describe(self, feature: int, window: str, counts: Mapping[int, NDArray[np.int64]], evidence: float) -> Moved:
        """What a feature did until the open `window` with its `counts`."""
        now, then = self._both(counts)
        found, expected = self.found + now, self.expected + then
        part = slice(int(self.layout.offsets[feature]), int(self.layout.offsets[feature + 1]))
        before, after = _shares(expected[part]), _shares(found[part])
        (yes0, yes), (asked0, asked) = self.layout.answers(np.stack([expected, found]))
        shares = (yes0 + 0.5) / (asked0 + 1.0), yes / np.maximum(asked, 1.0)
        usable = (self.layout.owner == feature) & (asked > 0)
        split = int(np.argmax(np.where(usable, divergence(shares[1], shares[0]), -1.0)))
        cells = self.layout.features[feature]
        return Moved(
            feature=cells.name,
            since=self.since[feature] or window,
            rows=int(found[part].sum()),
            evidence=evidence,
            split=self.layout.splits[split].label,
            expected=float(yes0[split] / max(asked0[split], 1e-9)),
            found=float(shares[1][split]),
            change=0.5 * float(np.abs(after - before).sum()),
            shift=normal_shift(before, after) if isinstance(cells, NumericCells) else None,
            cells=tuple(map(CellShare, cells.labels, before.tolist(), after.tolist())),
        )

    def _both(self, counts: Mapping[int, NDArray[np.int64]]) -> tuple[Array, Array]:
        found, expected = np.zeros((2, self.layout.size))
        for stratum, cells in counts.items():
            found += cells
            expected += self.layout.spread(self.layout.totals(cells)) * self._shares[stratum]
        return found, expected

    def to_dict(self) -> dict[str, Any]:
        """Of features that do not grow nothing but zeros is known; `expected` is kept to a thousandth of a row."""
        expected = np.round(THOUSAND * self.expected)
        counts = {"found": pack_counts(self.found), "expected": pack_counts(expected)}
        return {"since": self.since, **counts, "ahead": pack_fixed(self._ahead)}

    def load(self, data: Mapping[str, Any]) -> None:
        """What `to_dict` gave. Raises ValueError, KeyError or TypeError when it is of other columns."""
        self.since = [str(window) for window in data["since"]]
        if len(self.since) != len(self.layout.features):
            raise ValueError(f"since: expected a window for each of {len(self.layout.features)} features")
        self._ahead = unpack_fixed(data["ahead"], self._ahead.shape)
        self.found = unpack_counts(data["found"], self.found.shape).astype(np.float64)
        self.expected = unpack_counts(data["expected"], self.expected.shape) / THOUSAND


def normal_shift(before: Array, after: Array) -> float | None:
    """Median over the edges of Φ⁻¹(F before) - Φ⁻¹(F after), for shares (cells,) of which the last is missing: the
    shift of a normal distribution in its standard deviations, whatever the feature's scale. None if no edge says it."""
    scores = []
    below, now = np.cumsum(before[:-1])[:-1], np.cumsum(after[:-1])[:-1]
    for p, q in zip(below / max(before[:-1].sum(), 1e-12), now / max(after[:-1].sum(), 1e-12), strict=True):
        if 0.02 < p < 0.98 and 0.0005 < q < 0.9995:
            scores.append(NormalDist().inv_cdf(float(p)) - NormalDist().inv_cdf(float(q)))
    return float(np.median(scores)) if scores else None


def _shares(cells: Array) -> Array:
    return cells / max(float(cells.sum()), 1e-12)
