"""What a regressor's loss is likely to be before labels arrive: a model of the loss, on the cells of the drift monitor.

The expected loss of a row is the mean loss plus a term for the cell of each of its features, fitted by ridge regression
on labelled reference rows. Being additive in cells, a window's expected loss follows from its counts: nothing is
computed per row in production. (NannyML's direct loss estimation fits boosted trees to the same target.) It sees that
inputs moved to where the model is known to err more, or less; it is blind to concept drift. An estimate is shown beside
measured losses and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymlops.errors import DataError, IntegrityError
from raymlops.features.rows import Rows
from raymlops.monitoring.cells import Layout
from raymlops.monitoring.margins import Array

CHUNK = 8192
RIDGE = 20.0
"""Rows' worth of doubt about the term of a cell."""


@dataclass(frozen=True)
class LossModel:
    """Mean loss and the terms of cells, (cells,), of the layout with this digest."""

    digest: str
    mean: float
    terms: Array
    explained: float
    """Share of the variance of losses explained on rows it was not fitted on (every fifth): how much to make of it."""

    @classmethod
    def fit(cls, layout: Layout, rows: Any, losses: ArrayLike) -> LossModel:
        """From labelled rows that the model itself was not fitted on, and their losses (n,), in any unit.

        Raises DataError when there are fewer than 10 rows or losses do not belong to them.
        """
        known, y = Rows.of(rows), np.asarray(losses, np.float64)
        if y.shape != (known.length,) or known.length < 10 or not np.isfinite(y).all():
            raise DataError(f"losses: expected a number for each of {known.length} rows (at least 10), found {y.shape}")
        codes, checked = _positions(layout, known), np.arange(known.length) % 5 == 0
        mean, terms = _ridge(codes[~checked], y[~checked], layout.size)
        left = y[checked] - (mean + terms[codes[checked]].sum(axis=1))
        explained = 1.0 - float((left**2).mean()) / max(float(y[checked].var()), 1e-300)
        mean, terms = _ridge(codes, y, layout.size)
        return cls(layout.digest, mean, np.array([float(f"{term:.4g}") for term in terms]), explained)

    def expected(self, layout: Layout, cells: NDArray[np.int64]) -> float:
        """Expected mean loss of a window's counts (cells,). Raises DataError for counts in other cells and without
        rows."""
        if layout.digest != self.digest:
            raise DataError(f"loss model: expected counts of cells {self.digest}, found {layout.digest}")
        if not (rows := layout.rows(cells)):
            raise DataError("loss model: the window has no rows")
        return self.mean + float(cells @ self.terms) / rows

    def to_dict(self) -> dict[str, Any]:
        return {"digest": self.digest, "mean": self.mean, "terms": self.terms.tolist(), "explained": self.explained}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LossModel:
        """Raises IntegrityError when the data are no loss model."""
        try:
            terms = np.array(data["terms"], np.float64)
            return cls(str(data["digest"]), float(data["mean"]), terms, float(data["explained"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"loss model: cannot be read ({type(error).__name__}: {error})") from error


def _positions(layout: Layout, rows: Rows) -> NDArray[np.int64]:
    """Cell of every feature of every row in the vector of counts, (n, features)."""
    codes = [cells.codes(rows).astype(np.int64) for cells in layout.features]
    return np.stack(codes, axis=1) + layout.offsets[:-1]


def _ridge(positions: NDArray[np.int64], y: Array, size: int) -> tuple[float, Array]:
    """Mean of y and the terms of cells that best explain the rest."""
    mean = float(y.mean())
    gram, moment = np.zeros((size, size), np.float32), np.zeros(size)
    for start in range(0, len(y), CHUNK):
        part = positions[start : start + CHUNK]
        table = np.zeros((len(part), size), np.float32)
        np.put_along_axis(table, part, 1.0, axis=1)
        gram += table.T @ table
        moment += table.T @ (y[start : start + CHUNK] - mean)
    return mean, np.asarray(np.linalg.solve(gram.astype(np.float64) + RIDGE * np.eye(size), moment), np.float64)
