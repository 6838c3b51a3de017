"""The reference: what the monitored columns looked like when the model was registered, and how sure that is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymlops.data.profile import Profile
from raymlops.errors import ConfigError, DataError, IntegrityError
from raymlops.monitoring.building import layout_of_profile
from raymlops.monitoring.cells import Layout, NumericCells
from raymlops.monitoring.counts import STRATA, Counts, Strata
from raymlops.monitoring.margins import Array, chernoff, effective, intraclass, materiality
from raymlops.monitoring.packing import pack_counts, unpack_counts

VERSION = 2
MIN_DAYS = 14
"""Fewer reference days say too little about how days differ; 28 and more are better, and are said to be enough."""
EPSILON, FLOOR, DELTA = 0.02, 0.001, 0.01
KLL_RANK_ERROR = 0.0133
"""Of a sketch with k = 200, single-sided at 99 %."""


@dataclass(frozen=True)
class Reference:
    """Counts per stratum and the tolerances that follow from them. Immutable; `digest` is its version."""

    layout: Layout
    strata: Strata
    cells: NDArray[np.int64]
    """(strata, cells)."""
    block_rows: NDArray[np.int64]
    """(strata, features): rows of its day that an average reference row is among."""
    icc: Array
    """(splits,): upper bound of the correlation of two rows of one day, 0 where rows are taken to be independent."""
    days: int
    """Reference days that `icc` was estimated from, 0 if it was not."""
    epsilon: float = EPSILON
    floor: float = FLOOR
    delta: float = DELTA
    rank_error: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected a share in {low}, found {value!r}"
            for name, value, low, ok in (
                ("epsilon", self.epsilon, "[0, 0.5)", 0.0 <= self.epsilon < 0.5),
                ("floor", self.floor, "(0, 0.5)", 0.0 < self.floor < 0.5),
                ("delta", self.delta, "(0, 0.5]", 0.0 < self.delta <= 0.5),
            )
            if not ok
        ]
        if problems:
            raise ConfigError(problems)

    @classmethod
    def of_counts(
        cls,
        counts: Counts,
        strata: Strata = "none",
        *,
        alike: Counts | None = None,
        independent: bool = False,
        epsilon: float = EPSILON,
        floor: float = FLOOR,
        delta: float = DELTA,
    ) -> Reference:
        """From reference rows counted by day (`Counts.by_day` with the same strata). Features may have been counted on
        different rows.

        `alike` counts rows of other days, such as what a model says to the rows that it was fitted on: they say how
        alike the rows of a day are and nothing about shares. `independent` says that rows of one day are no more alike
        than others, and that windows may be shorter than a day. Raises DataError for fewer than `MIN_DAYS` days
        otherwise, and when there are no rows.
        """
        if not counts.rows:
            raise DataError("reference: there are no rows")
        layout, sources = counts.layout, [counts] if alike is None else [counts, alike]
        days = 0 if independent else min(len(set().union(*seen)) for seen in zip(*map(_days, sources), strict=True))
        if not independent and days < MIN_DAYS:
            expected = f"rows of at least {MIN_DAYS} days, or `independent` if rows of one day are not alike"
            raise DataError(f"reference: expected {expected}, found {days}")
        cells = _by_stratum(counts, strata)
        squares = np.zeros((STRATA[strata], len(layout.features)))
        for (_, stratum), counted in counts.values.items():
            squares[stratum] += layout.totals(counted).astype(np.float64) ** 2
        icc = np.zeros(len(layout.splits)) if independent else _icc(sources, strata)
        return cls(
            layout=layout,
            strata=strata,
            cells=cells,
            block_rows=np.ceil(squares / np.maximum(layout.totals(cells), 1)).astype(np.int64),
            icc=icc,
            days=days,
            epsilon=epsilon,
            floor=floor,
            delta=delta,
        )

    @classmethod
    def of_profile(cls, profile: Profile, columns: list[str] | None = None, **tolerances: float) -> Reference:
        """From a snapshot's profile alone: independent rows, and shares with the rank error of the sketch."""
        layout = layout_of_profile(profile, columns)
        cells = np.concatenate([_profile_cells(profile, part) for part in layout.features])[None]
        zeros, ones = np.zeros(len(layout.splits)), np.ones((1, len(layout.features)), np.int64)
        return cls(layout, "none", cells, ones, zeros, 0, rank_error=KLL_RANK_ERROR, **tolerances)

    @property
    def rows(self) -> int:
        return self.layout.rows(self.cells.sum(axis=0))

    @cached_property
    def shares(self) -> Array:
        """Share of rows that answer yes, (strata, splits); 0 where nothing is known."""
        answers, asked = self.layout.answers(self.cells)
        return answers / np.maximum(asked, 1.0)

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Least and largest share that is no drift, each (strata, splits): the tolerated null hypothesis.

        Chernoff at δ over all splits, strata and sides for the reference's own error, with its effective rows, then
        materiality and the sketch's error. Holds together for all of them for a fraction 1-δ of references.
        """
        _, asked = self.layout.answers(self.cells)
        known = effective(asked, np.minimum(asked, self.block_rows[:, self.layout.owner]), self.icc)
        risk = float(np.log(2.0 * self.shares.size / self.delta))
        sketched = np.array([split.kind == "edge" for split in self.layout.splits]) * self.rank_error
        slack = materiality(self.shares, self.epsilon, self.floor) + sketched
        low = chernoff(self.shares, known, risk, upper=False) - slack
        return np.maximum(low, 0.0), np.minimum(chernoff(self.shares, known, risk, upper=True) + slack, 1.0)

    def to_json(self) -> str:
        """Canonical text: equal references give equal bytes."""
        return json.dumps(
            {
                "version": VERSION,
                "layout": self.layout.to_dict(),
                "strata": self.strata,
                "cells": pack_counts(self.cells),
                "block_rows": pack_counts(self.block_rows),
                "icc": self.icc.tolist(),
                "days": self.days,
                "epsilon": self.epsilon,
                "floor": self.floor,
                "delta": self.delta,
                "rank_error": self.rank_error,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Raises IntegrityError when the text is no reference of a version that this code knows."""
        try:
            data: dict[str, Any] = json.loads(text)
            if (version := data["version"]) != VERSION:
                raise IntegrityError(f"reference: version {version!r} found, {VERSION} expected")
            layout, strata = Layout.from_dict(data["layout"]), STRATA[data["strata"]]
            cells = unpack_counts(data["cells"], (strata, layout.size))
            block_rows = unpack_counts(data["block_rows"], (strata, len(layout.features)))
            icc = np.array(data["icc"], np.float64)
            shares = {name: float(data[name]) for name in ("epsilon", "floor", "delta", "rank_error")}
            if icc.shape != (len(layout.splits),):
                raise ValueError(f"correlations of shape {icc.shape} do not fit {len(layout.splits)} splits")
            if not (cells >= 0).all() or not (block_rows >= 0).all() or not ((icc >= 0) & (icc <= 1)).all():
                raise ValueError("counts and correlations: expected no negative ones")
            return cls(layout, data["strata"], cells, block_rows, icc, index(data["days"]), **shares)
        except (ValueError, KeyError, TypeError, AttributeError, DataError, ConfigError) as error:
            raise IntegrityError(f"reference: cannot be read ({type(error).__name__}: {error})") from error

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _days(counts: Counts) -> list[set[str]]:
    """The days on which each feature was counted."""
    seen: list[set[str]] = [set() for _ in counts.layout.features]
    for (day, _), counted in counts.values.items():
        for feature in np.flatnonzero(counts.layout.totals(counted)).tolist():
            seen[feature].add(day)
    return seen


def _by_stratum(counts: Counts, strata: Strata) -> NDArray[np.int64]:
    """Counts of all days, (strata, cells)."""
    cells = np.zeros((STRATA[strata], counts.layout.size), np.int64)
    for (day, stratum), counted in counts.values.items():
        if not 0 <= stratum < len(cells):
            raise DataError(f"reference: found stratum {stratum} on {day}, expected strata {strata!r}")
        cells[stratum] += counted
    return cells


def _icc(sources: Sequence[Counts], strata: Strata) -> Array:
    """Per split, from the days of all sources, each beside its own shares; of a split that nothing is known about
    (always or never yes), the largest of its feature."""
    layout, by_day = sources[0].layout, dict[str, Array]()
    spread, known = np.zeros((2, len(layout.splits)))
    for counts in sources:
        answers, asked = layout.answers(_by_stratum(counts, strata))
        shares = answers / np.maximum(asked, 1.0)
        for (day, stratum), counted in counts.values.items():
            yes, rows = layout.answers(counted)
            by_day[day] = by_day.get(day, np.zeros(())) + np.stack([yes, rows, rows * shares[stratum]])
        total, asked_of = answers.sum(axis=0), asked.sum(axis=0)
        share = total / np.maximum(asked_of, 1.0)
        spread, known = spread + asked_of * share * (1.0 - share), known + asked_of
    yes, rows, expected = np.stack(list(by_day.values()), axis=1)
    found = intraclass(yes, rows, expected, spread / np.maximum(known, 1.0))
    largest = np.zeros(len(layout.features))
    np.maximum.at(largest, layout.owner, found)
    return _short(np.where(spread == 0.0, largest[layout.owner], found))


def _short(values: Array) -> Array:
    """Four digits, before they are used, so that a reference read back is the one that was written."""
    return np.array([float(f"{value:.4g}") for value in values])


def _profile_cells(profile: Profile, part: Any) -> NDArray[np.int64]:
    """Counts by cell as far as the sketches know them."""
    column = profile.columns[part.name]
    if isinstance(part, NumericCells):
        inner = np.array(column.kll.get_cdf(list(part.edges[1:-1]), True)[:-1]) if len(part.edges) > 2 else np.zeros(0)
        below = np.round(column.known * np.concatenate([[0.0], inner, [1.0]])).astype(np.int64)
        return np.concatenate([[0], np.diff(below), [0, column.nulls]])
    counted = dict(column.counted_values())
    known = [min(counted[value], column.known) for value in part.categories]
    return np.array([*known, max(0, column.known - sum(known)), column.nulls], np.int64)
