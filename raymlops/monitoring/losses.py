"""Losses of labelled predictions: the level at registration, and sums by window and slice that replicas contribute."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from operator import index
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymlops.errors import ConfigError, DataError, IntegrityError
from raymlops.features.rows import Rows
from raymlops.monitoring.margins import Array, effective, intraclass
from raymlops.monitoring.reference import MIN_DAYS
from raymlops.monitoring.tally import Tally

OVERALL = "(all)"
FRACTIONS: Array = np.array([0.03, 0.1, 0.3, 0.9])
"""Bets c: a loss of y multiplies wealth by 1 + c·(y/limit - 1)."""
LEVEL_DELTA = 0.05
"""Share of references whose level, all slices together, may turn out too low. A holdout has few days, so a smaller
share costs weeks of delay; the tolerance and the detector's own threshold stand behind it."""
VECTOR = 2 + len(FRACTIONS)
"""Per window and slice: rows, sum of losses, and the sum of log(1 + c·(y/limit - 1)) for each c."""


@dataclass(frozen=True)
class Slice:
    """Rows of one kind, or all of them, with their losses at registration."""

    name: str
    mean: float
    rows: int
    limit: float
    """Largest mean loss that is no degradation: the mean, its own error, and the tolerance."""
    icc: float | None
    """Upper bound of the correlation of two losses of one day; None when there are too few days to tell."""


@dataclass(frozen=True)
class LossDays:
    """Losses in [0, 1], (n,), with the day of each, and the rows of slices, as for `LossLevels.of`."""

    losses: ArrayLike
    days: Sequence[Any] | NDArray[Any]
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Array, NDArray[np.int64]]:
        """Losses of a slice and numbers of their days. Raises DataError for losses out of range."""
        values, days = bounded(self.losses), np.unique(np.asarray(self.days), return_inverse=True)[1]
        mask = np.ones(len(values), bool) if name == OVERALL else self.masks.get(name, np.zeros(len(values), bool))
        return values[mask], days[mask]


@dataclass(frozen=True)
class LossLevels:
    """What a model's losses were when it was registered, overall (first) and by slice."""

    slices: tuple[Slice, ...]
    tolerance: float
    days: int
    """Reference days, 0 if rows were said to be independent."""

    @classmethod
    def of(
        cls,
        losses: ArrayLike,
        days: Sequence[Any] | NDArray[Any] | None,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
        tolerance: float = 0.1,
        delta: float = LEVEL_DELTA,
        alike: LossDays | None = None,
    ) -> LossLevels:
        """From losses in [0, 1], (n,), on rows that the model was not fitted on.

        `days` (n,) names each row's day; None says that all rows are independent. `masks` name the slices. A mean may
        rise by the share `tolerance` of itself, beyond the error of the level: a normal bound on effective rows at δ
        over all slices, half of it for all rows together as the detector's weights are, and the range term of Maurer &
        Pontil (2009, arXiv:0907.3740, Theorem 4) for small slices.
        `alike` are losses of other days, such as those that the model was fitted on: they say how alike the rows of a
        day are, which a short holdout cannot, and nothing about the level. Without `days` they are ignored.
        Raises DataError for losses out of range, and for slices of fewer than 2 rows or days.
        """
        values = bounded(losses)
        if not tolerance >= 0.0:
            raise ConfigError(f"tolerance: expected a share of the loss, at least 0, found {tolerance!r}")
        named = {OVERALL: np.ones(len(values), bool), **(masks or {})}
        numbers = None if days is None else np.unique(np.asarray(days), return_inverse=True)[1]
        risks = {name: delta / 2.0 / max(len(named) - 1, 1) for name in named}
        risks[OVERALL] = delta / 2.0 if len(named) > 1 else delta
        made = []
        for name, mask in named.items():
            if mask.sum() < 2:
                raise DataError(f"slice {name!r}: expected at least 2 labelled reference rows, found {mask.sum()}")
            further = None if alike is None else alike.of(name)
            chosen = None if numbers is None else numbers[mask]
            made.append(_slice(name, values[mask], chosen, tolerance, risks[name], further))
        return cls(tuple(made), tolerance, 0 if numbers is None else int(numbers.max()) + 1)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.slices)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LossLevels:
        """Raises IntegrityError when the data are no levels."""
        try:
            slices = tuple(Slice(**row) for row in data["slices"])
            return cls(slices, float(data["tolerance"]), index(data["days"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"loss levels: cannot be read ({type(error).__name__}: {error})") from error

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:16]


class LossSums(Tally):
    """float64 (VECTOR,) by (window, number of the slice)."""

    def __init__(self, levels: LossLevels, values: Mapping[tuple[str, int], Array] | None = None) -> None:
        super().__init__(levels.digest, dict(values or {}))
        self.levels = levels

    @classmethod
    def of(
        cls,
        levels: LossLevels,
        losses: ArrayLike,
        windows: Sequence[str] | NDArray[Any],
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> Self:
        """From losses in [0, 1], (n,), with the window of each: its day, or another unit of dependence. Raises
        DataError for losses out of range and for slices that the levels have not got."""
        values = bounded(losses)
        named = {OVERALL: np.ones(len(values), bool), **(masks or {})}
        if unknown := sorted(named.keys() - set(levels.names)):
            raise DataError(f"slices: expected some of {list(levels.names)}, found {unknown}")
        distinct, groups = np.unique(np.asarray(windows), return_inverse=True)
        made = cls(levels)
        for number, part in enumerate(levels.slices):
            if part.name not in named or not (mask := named[part.name]).any():
                continue
            y, at = values[mask], groups[mask]
            columns = [np.ones_like(y), y, *(np.log1p(c * (y / part.limit - 1.0)) for c in FRACTIONS)]
            sums = np.stack([np.bincount(at, column, len(distinct)) for column in columns], axis=1)
            made.values |= {(str(distinct[w]), number): sums[w] for w in np.unique(at)}
        return made


def bounded(losses: ArrayLike) -> Array:
    """Losses as float64 (n,). Raises DataError unless all are in [0, 1]."""
    values = np.asarray(losses, np.float64)
    wrong = ~((values >= 0.0) & (values <= 1.0))
    if values.ndim != 1 or wrong.any():
        example = values[wrong][0] if wrong.any() else f"an array of shape {values.shape}"
        raise DataError(f"losses: expected a number in [0, 1] for each row, found {example}; see clipped_error")
    return values


def clipped_error(actual: ArrayLike, predicted: ArrayLike, scale: float) -> Array:
    """min(1, |actual - predicted|/scale): a regression's error as a bounded loss. `scale` is an error that no worse one
    exceeds in effect, such as the 99 % quantile of the errors at registration."""
    return np.asarray(np.minimum(1.0, np.abs(np.asarray(actual, float) - np.asarray(predicted, float)) / scale))


def slice_masks(rows: Any, slices: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.bool_]]:
    """ "column=value" to the rows (n,) that have the value, for the named values of each column."""
    known = Rows.of(rows)
    masks: dict[str, NDArray[np.bool_]] = {}
    for column, values in slices.items():
        numbers = {value: number for number, value in enumerate(values)}
        codes = known.codes(column, lambda text, numbers=numbers: numbers.get(text, -1))  # type: ignore[misc]
        masks |= {f"{column}={value}": codes == number for value, number in numbers.items()}
    return masks


def _slice(
    name: str,
    y: Array,
    days: NDArray[np.int64] | None,
    tolerance: float,
    delta: float,
    alike: tuple[Array, NDArray[np.int64]] | None,
) -> Slice:
    mean, variance, rows = float(y.mean()), float(y.var(ddof=1)), float(len(y))
    icc: float | None = 0.0
    known = rows
    if days is not None:
        table = _by_day(y, days)
        sizes = table[:, 1]
        if len(table) < 2:
            raise DataError(f"slice {name!r}: expected labelled reference rows of at least 2 days, found {len(table)}")
        spread = variance
        if alike is not None and len(alike[0]) > 1:
            table = np.concatenate([table, _by_day(*alike)])
            spread = float((rows * variance + len(alike[0]) * alike[0].var()) / (rows + len(alike[0])))
        found = float(intraclass(table[:, [0]], table[:, [1]], table[:, [2]], np.array([spread]))[0])
        known = float(effective(rows, (sizes**2).sum() / rows, found))
        icc = float(f"{found:.4g}") if len(table) >= MIN_DAYS else None
    error = NormalDist().inv_cdf(1.0 - delta) * math.sqrt(variance / known) + 7.0 * math.log(2.0 / delta) / (3.0 * rows)
    return Slice(name, mean, len(y), max(min(1.0, mean * (1.0 + tolerance) + error), 1e-6), icc)


def _by_day(y: Array, days: NDArray[np.int64]) -> Array:
    """Sum, rows and expected sum of each day that has rows, (days, 3)."""
    sizes = np.bincount(days).astype(np.float64)
    table = np.stack([np.bincount(days, y), sizes, sizes * y.mean()], axis=1)
    return np.asarray(table[sizes > 0])
