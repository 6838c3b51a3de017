"""Drift of inputs and predictions, window by window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from operator import index

import numpy as np

from raymlops.errors import ConfigError, DataError, IntegrityError
from raymlops.monitoring.attribution import Moved, SinceChange
from raymlops.monitoring.bets import CHOICES, SplitBets
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.detector import ShiryaevRoberts
from raymlops.monitoring.margins import Array
from raymlops.monitoring.packing import Single
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.tally import OpenWindow

MEAN_WINDOWS = 1000.0


@dataclass(frozen=True)
class DriftFinding:
    """What the counts of a window say, with those before it."""

    alarm: bool
    window: str
    statistic: float
    """log of the mean M; an alarm is due at `threshold`."""
    threshold: float
    evidence: Mapping[str, float]
    """Feature to log of the mean M of its own components; `statistic` is the log of the mean over features."""
    moved: tuple[Moved, ...]
    """On alarm, strongest first: the features whose own evidence passes the threshold, or else the strongest alone."""


class DriftDetector:
    """Detects that columns are no longer distributed as in the reference, within its tolerances.

    Windows come in the order of their names; the last one stays open and may be added to, so that a day can be judged
    while it goes on. `mean_windows`: without drift an alarm comes after this many windows or more on average. With a
    reference of days windows have to be days, and an alarm takes at least two. State is constant: no history of windows
    is kept. `late_rows` counts rows that came too late to be judged, because their window was closed or had raised the
    alarm already.
    """

    def __init__(self, reference: Reference, mean_windows: float = MEAN_WINDOWS) -> None:
        self.reference, self.mean_windows, self.late_rows = reference, mean_windows, 0
        self._bets = SplitBets.of(reference)
        self._owner = np.repeat(reference.layout.owner, CHOICES)
        self._sr = ShiryaevRoberts(self._bets.weights, mean_windows, days=reference.days > 0)
        usual = {s: cells / max(reference.days, 1) for s, cells in enumerate(reference.cells)}
        self._forgetting = self._sr.forgetting(self._bets.log_e(usual)[0])
        self._since = SinceChange(reference, self._owner)
        self._open = OpenWindow()

    def update(self, counts: Counts) -> list[DriftFinding]:
        """Adds counts and judges each of their windows. After an alarm everything starts afresh with the next window.

        Raises DataError when they were counted in other cells, strata or kinds of windows than the reference's.
        """
        counts.check(self.reference.layout.digest)
        if self.reference.days and (odd := [window for window in counts.windows if not _is_day(window)]):
            raise DataError(f"window: expected a day such as 2025-01-31, as in the reference, found {odd[0]!r}")
        if wrong := [stratum for _, stratum in counts.values if not 0 <= stratum < len(self.reference.cells)]:
            raise DataError(f"counts: found stratum {wrong[0]}, expected strata {self.reference.strata!r}")
        findings = []
        for window in counts.windows:
            added = counts.of_window(window)
            if self._open.is_late(window):
                self.late_rows += sum(self.reference.layout.rows(cells) for cells in added.values())
                continue
            if window != self._open.name:
                self._close()
                self._open.begin(window)
            self._open.add(added)
            findings.append(self._judge())
        return findings

    def _close(self) -> None:
        if self._open.parts:
            log_e, informed = self._bets.log_e(self._open.parts)
            self._sr.close(log_e, informed)
            self._since.add(self._open.name, self._open.parts, self._sr.capped(log_e) - self._forgetting)

    def _evidence(self, log_m: Single) -> Array:
        """log of the mean M of each feature, (features,)."""
        starts = np.searchsorted(self._owner, np.arange(len(self.reference.layout.features)))
        return np.asarray(np.logaddexp.reduceat(self._sr.log_weights + log_m, starts) + np.log(len(starts)))

    def _judge(self) -> DriftFinding:
        log_m = self._sr.after(*self._bets.log_e(self._open.parts))
        statistic, threshold, evidence = self._sr.statistic(log_m), self._sr.log_threshold, self._evidence(log_m)
        moved: list[Moved] = []
        if alarm := statistic >= threshold:
            for feature in np.argsort(-evidence, kind="stable").tolist():
                if not moved or evidence[feature] >= threshold:
                    now = self._open.name, self._open.parts
                    moved.append(self._since.describe(feature, *now, float(evidence[feature])))
            self._sr.restart()
            self._since = SinceChange(self.reference, self._owner)
            self._open.spend()
        names = [cells.name for cells in self.reference.layout.features]
        shown = dict(zip(names, evidence.tolist(), strict=True))
        return DriftFinding(alarm, self._open.name, statistic, threshold, shown, tuple(moved))

    def to_json(self) -> str:
        """The whole state, without the reference, of which it names the digest."""
        return json.dumps(
            {
                "reference": self.reference.digest,
                "mean_windows": self.mean_windows,
                "log_m": self._sr.dump(),
                "open": self._open.to_dict(),
                "since": self._since.to_dict(),
                "late_rows": self.late_rows,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str, reference: Reference) -> DriftDetector:
        """Goes on from what `to_json` wrote. Raises IntegrityError when it is damaged or of another reference."""
        try:
            data = json.loads(text)
            if data["reference"] != reference.digest:
                raise ValueError(f"of reference {data['reference'][:12]}, expected {reference.digest[:12]}")
            made = cls(reference, data["mean_windows"])
            made._sr.load(data["log_m"])
            made._open.load(data["open"], reference.cells[0])
            made.late_rows = index(data["late_rows"])
            made._since.load(data["since"])
            return made
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise IntegrityError(f"drift state: cannot be read ({type(error).__name__}: {error})") from error


def _is_day(window: str) -> bool:
    try:
        return date.fromisoformat(window).isoformat() == window
    except ValueError:
        return False
