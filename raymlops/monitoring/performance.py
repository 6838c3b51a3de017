"""Degradation: has the mean loss of labelled predictions risen above its level at registration, and for which rows?

A loss y in [0, 1] with mean at most `limit`, whatever came before, makes 1 + c·(y/limit - 1) a fair bet or a losing one
for every c <= 1 (Waudby-Smith & Ramdas, arXiv:2010.09686). Rows of a window are dependent. Where the correlation inside
a day is known from reference days, logs of wealth are scaled to the effective number of rows, as for drift; otherwise
a window is one observation, its mean, which needs no assumption about the rows inside and is slow: wealth grows by at
most mean/limit a window, so an alarm takes at least ln A / ln(mean/limit) of them.

One family: half of the weight watches all rows, half is shared by the slices, and an alarm is about the weighted mean
of M, so that A holds for all of them together. Slices need to be named before the data are seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import index

import numpy as np
from numpy.typing import NDArray

from raymlops.errors import ConfigError, IntegrityError
from raymlops.monitoring.detector import ShiryaevRoberts
from raymlops.monitoring.losses import FRACTIONS, VECTOR, LossLevels, LossSums, Slice
from raymlops.monitoring.margins import Array, effective
from raymlops.monitoring.packing import Single
from raymlops.monitoring.tally import OpenWindow, Parts

MEAN_WINDOWS = 1000.0


@dataclass(frozen=True)
class SliceLoss:
    """One slice since its evidence began to grow."""

    name: str
    since: str
    """First window: an estimate of when it became worse."""
    rows: int
    mean: float
    registered: float
    limit: float
    evidence: float
    """log of the slice's own mean M."""

    def scaled(self, scale: float) -> SliceLoss:
        """The same with losses in units of which `scale` is 1 here."""
        means = {name: scale * getattr(self, name) for name in ("mean", "registered", "limit")}
        return replace(self, **means)

    def __str__(self) -> str:
        return (
            f"{self.name}: mean loss {self.registered:.4g} → {self.mean:.4g} (up to {self.limit:.4g} is tolerated), "
            f"since {self.since} ({self.rows:,} labels)"
        )


@dataclass(frozen=True)
class LossFinding:
    """What the labels of a window say, with those before it."""

    alarm: bool
    window: str
    statistic: float
    """log of the weighted mean of M; an alarm is due at `threshold`."""
    threshold: float
    worse: tuple[SliceLoss, ...]
    """On alarm, strongest first: the slices whose own evidence passes the threshold, or else the strongest alone."""
    slices: tuple[SliceLoss, ...]
    """All slices, in order."""


class LossDetector:
    """Detects that a model has become worse than it was, within the tolerance of its levels.

    Windows come in the order of their names, and the last one stays open, as in `DriftDetector`. `mean_windows`:
    without degradation an alarm comes after this many windows or more on average; with levels of days an alarm takes at
    least two. Labels of closed windows are counted in `late_labels` and not judged: give windows to the detector when
    their labels are due.
    """

    def __init__(self, levels: LossLevels, mean_windows: float = MEAN_WINDOWS) -> None:
        self.levels, self.mean_windows, self.late_labels = levels, mean_windows, 0
        count = len(levels.slices)
        weights = np.full(count, 0.5 / max(count - 1, 1))
        weights[0] = 0.5 if count > 1 else 1.0
        self._sr = ShiryaevRoberts(np.repeat(weights, len(FRACTIONS)), mean_windows, days=levels.days > 0)
        usual, most = zip(*map(self._usual, levels.slices), strict=True)
        self._forgetting = self._sr.forgetting(np.stack(usual), np.stack(most))
        self._open = OpenWindow()
        self._restart()

    def _usual(self, part: Slice) -> tuple[Array, Array]:
        """log E of a window whose loss is as registered, at most, and the largest of a single window, each (bets,)."""
        mean, worst = (np.log1p(FRACTIONS * (y / part.limit - 1.0)) for y in (part.mean, 1.0))
        if part.icc is None:
            return mean, worst
        rows = part.rows / max(self.levels.days, 1)
        return mean * effective(rows, rows, part.icc), worst * effective(rows, rows, part.icc)

    def _restart(self) -> None:
        self._sr.restart()
        self._since = [""] * len(self.levels.slices)
        self._sums = np.zeros((len(self.levels.slices), 2))
        self._ahead = np.zeros((len(self.levels.slices), len(FRACTIONS)))

    def update(self, sums: LossSums) -> list[LossFinding]:
        """Adds labelled losses and judges each of their windows; after an alarm everything starts afresh. Raises
        DataError when they were summed against other levels."""
        sums.check(self.levels.digest)
        findings = []
        for window in sums.windows:
            added = sums.of_window(window)
            if self._open.is_late(window):
                self.late_labels += int(added[0][0]) if 0 in added else 0
                continue
            if window != self._open.name:
                self._close()
                self._open.begin(window)
            self._open.add(added)
            findings.append(self._judge())
        return findings

    def _close(self) -> None:
        if self._open.parts:
            added = _dense(self._open.parts, len(self.levels.slices))
            log_e = self._log_e(added)
            self._sr.close(log_e.reshape(-1), _informed(added))
            ahead = self._ahead + self._sr.capped(log_e) - self._forgetting
            growing = ahead.max(axis=1) > 0.0  # since when, as in `attribution.SinceChange`
            self._ahead = np.where(growing[:, None], ahead, 0.0)
            self._sums = np.where(growing[:, None], self._sums + added[:, :2], 0.0)
            names = zip(self._since, growing, strict=True)
            self._since = [(since or self._open.name) if grows else "" for since, grows in names]

    def _log_e(self, sums: Array) -> Array:
        """log E of a window's sums, (slices, bets)."""
        return np.stack([_log_e(part.icc, part.limit, row) for part, row in zip(self.levels.slices, sums, strict=True)])

    def _evidence(self, log_m: Single) -> Array:
        by_slice = np.logaddexp.reduce(log_m.reshape(-1, len(FRACTIONS)), axis=1)
        return np.asarray(by_slice - np.log(len(FRACTIONS)), np.float64)

    def _judge(self) -> LossFinding:
        added = _dense(self._open.parts, len(self.levels.slices))
        log_m = self._sr.after(self._log_e(added).reshape(-1), _informed(added))
        statistic, threshold, evidence = self._sr.statistic(log_m), self._sr.log_threshold, self._evidence(log_m)
        sums = self._sums + added[:, :2]
        slices = tuple(
            SliceLoss(
                part.name,
                since or self._open.name,
                int(n),
                float(total) / max(float(n), 1.0),
                part.mean,
                part.limit,
                float(e),
            )
            for part, since, (n, total), e in zip(self.levels.slices, self._since, sums, evidence, strict=True)
        )
        worse: list[SliceLoss] = []
        if alarm := statistic >= threshold:
            ranked = sorted(slices, key=lambda row: -row.evidence)
            worse = [row for row in ranked if row is ranked[0] or row.evidence >= threshold]
            self._restart()
            self._open.spend()
        return LossFinding(alarm, self._open.name, statistic, threshold, tuple(worse), slices)

    def to_json(self) -> str:
        """The whole state, without the levels, of which it names the digest."""
        return json.dumps(
            {
                "levels": self.levels.digest,
                "mean_windows": self.mean_windows,
                "log_m": self._sr.dump(),
                "open": self._open.to_dict(),
                "since": self._since,
                "sums": self._sums.tolist(),
                "ahead": self._ahead.tolist(),
                "late_labels": self.late_labels,
            }
        )

    @classmethod
    def from_json(cls, text: str, levels: LossLevels) -> LossDetector:
        """Goes on from what `to_json` wrote. Raises IntegrityError when it is damaged or of other levels."""
        try:
            data = json.loads(text)
            if data["levels"] != levels.digest:
                raise ValueError(f"of levels {data['levels']}, expected {levels.digest}")
            made = cls(levels, data["mean_windows"])
            made._sr.load(data["log_m"])
            made._open.load(data["open"], np.zeros(VECTOR))
            made._since, made.late_labels = list(data["since"]), index(data["late_labels"])
            made._sums = np.array(data["sums"], np.float64).reshape(made._sums.shape)
            made._ahead = np.array(data["ahead"], np.float64).reshape(made._ahead.shape)
            return made
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise IntegrityError(f"loss state: cannot be read ({type(error).__name__}: {error})") from error


def _dense(parts: Mapping[int, Array] | Parts, count: int) -> Array:
    made = np.zeros((count, VECTOR))
    for number, vector in parts.items():
        made[number] = vector
    return made


def _informed(sums: Array) -> NDArray[np.bool_]:
    """Which components learn something from sums (slices, VECTOR)."""
    return np.repeat(sums[:, 0] > 0, len(FRACTIONS))


def _log_e(icc: float | None, limit: float, row: Array) -> Array:
    """log E of a window's sums for one slice, (bets,)."""
    rows, total = row[0], row[1]
    if not rows:
        return np.zeros(len(FRACTIONS))
    if icc is None:
        return np.asarray(np.log1p(FRACTIONS * (total / rows / limit - 1.0)))
    return np.asarray(row[2:] * effective(1.0, rows, icc))
