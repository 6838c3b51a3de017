"""Tables as counts: the cells that each column's values fall into.

A numeric column is cut at reference quantiles and just outside the reference's range; a categorical one has a cell per
frequent category and one for everything else; each has a cell for missing values. Everything that is monitored is a
*split* of these cells in two: rows at or below an edge, rows of one category, rows without a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raymlops.errors import DataError
from raymlops.features.rows import Rows

CHUNK = 32_768
"""Values binned at a time: a column's piece and its codes stay in the processor's cache."""
OTHER, MISSING = "(other)", "(missing)"


@dataclass(frozen=True)
class Split:
    """A question with two answers about one feature, asked of its known values, or of all for `missing`."""

    feature: str
    kind: str
    """edge, category or missing."""
    label: str
    inside: tuple[int, ...]
    """The feature's cells that answer yes."""


@dataclass(frozen=True)
class NumericCells:
    """Cell j holds edges[j-1] < x <= edges[j]; the last cell holds what is missing, NaN or infinite."""

    name: str
    edges: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        if not self.edges:
            return ("any value", MISSING)
        shown = [f"{edge:.4g}" for edge in self.edges]
        between = [f"({low}, {high}]" for low, high in pairwise(shown)]
        return (f"≤ {shown[0]}", *between, f"> {shown[-1]}", MISSING)

    def splits(self) -> Iterator[Split]:
        for at, edge in enumerate(self.edges):
            yield Split(self.name, "edge", f"≤ {edge:.4g}", tuple(range(at + 1)))
        yield Split(self.name, "missing", MISSING, (len(self.edges) + 1,))

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Cell of each row, uint8 (n,). Comparing with every edge in turn uses vector instructions and is four times
        as fast as a binary search per value at this number of edges. Raises DataError for text."""
        if self.name not in rows.columns:
            return np.full(rows.length, len(self.edges) + 1, np.uint8)
        values = rows.numbers(self.name)
        found, above = np.zeros(rows.length, np.uint8), np.empty(CHUNK, bool)
        for start in range(0, rows.length, CHUNK):
            part, codes = values[start : start + CHUNK], found[start : start + CHUNK]
            flags = above[: len(part)]
            for edge in self.edges:
                np.greater(part, edge, out=flags)
                np.add(codes, flags.view(np.uint8), out=codes)
            np.not_equal(part, part, out=flags)
            codes[flags] = len(self.edges) + 1
        return found


@dataclass(frozen=True)
class CategoryCells:
    """A cell per category, then one for other values and one for missing ones."""

    name: str
    categories: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.categories, OTHER, MISSING)

    def splits(self) -> Iterator[Split]:
        for at, label in enumerate(self.labels[:-1]):
            yield Split(self.name, "category", label, (at,))
        yield Split(self.name, "missing", MISSING, (len(self.categories) + 1,))

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Cell of each row, uint8 (n,)."""
        other = len(self.categories)
        if self.name not in rows.columns:
            return np.full(rows.length, other + 1, np.uint8)
        known: dict[str | None, int] = {value: at for at, value in enumerate(self.categories)}
        known[None] = other + 1
        return rows.codes(self.name, lambda value: known.get(value, other)).astype(np.uint8)


Cells: TypeAlias = NumericCells | CategoryCells


@dataclass(frozen=True)
class Layout:
    """All monitored columns of a model, their cells side by side in one vector of counts."""

    features: tuple[Cells, ...]

    def __post_init__(self) -> None:
        names = [cells.name for cells in self.features]
        if not names or len(set(names)) != len(names):
            raise DataError(f"monitored columns: expected at least one, all different, found {names}")
        if wide := [cells.name for cells in self.features if len(cells.labels) > 255]:
            raise DataError(f"monitored columns: expected at most 255 cells a column, found more in {wide}")

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each feature's cells begin, and the total, (features + 1,)."""
        return np.cumsum([0, *(len(cells.labels) for cells in self.features)])

    @property
    def size(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        return tuple(split for cells in self.features for split in cells.splits())

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """Index of the feature of each split, (splits,)."""
        at = {cells.name: number for number, cells in enumerate(self.features)}
        return np.array([at[split.feature] for split in self.splits])

    @cached_property
    def _matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inside, among = np.zeros((2, self.size, len(self.splits)))
        for number, split in enumerate(self.splits):
            begin, end = self.offsets[self.owner[number]], self.offsets[self.owner[number] + 1]
            inside[begin + np.array(split.inside), number] = 1.0
            among[begin : end if split.kind == "missing" else end - 1, number] = 1.0
        return inside, among

    def answers(self, cells: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows that answer yes and rows asked, each (…, splits), from counts (…, cells)."""
        inside, among = self._matrices
        return cells @ inside, cells @ among

    def totals(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Rows that each feature was counted on, (…, features), from counts (…, cells)."""
        return np.asarray(np.add.reduceat(cells, self.offsets[:-1], axis=-1))

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is said of each feature, (…, features), said of each of its cells, (…, cells)."""
        return np.repeat(values, np.diff(self.offsets), axis=-1)

    def rows(self, cells: NDArray[Any]) -> int:
        """Rows behind counts (cells,): those of the first feature."""
        return int(cells[: self.offsets[1]].sum())

    def count(self, rows: Rows, groups: NDArray[np.int64] | None = None, n: int = 1) -> NDArray[np.int64]:
        """Counts (n, cells) by group, a number in [0, n) for each row. An absent column counts as missing."""
        found = np.empty((n, self.size), np.int64)
        for cells, begin, end in zip(self.features, self.offsets[:-1], self.offsets[1:], strict=True):
            width, codes = int(end - begin), cells.codes(rows)
            flat = codes if groups is None else groups * width + codes
            found[:, begin:end] = np.bincount(flat, minlength=n * width).reshape(n, width)
        return found

    def to_dict(self) -> list[dict[str, Any]]:
        return [
            {"name": cells.name, "edges": list(cells.edges)}
            if isinstance(cells, NumericCells)
            else {"name": cells.name, "categories": list(cells.categories)}
            for cells in self.features
        ]

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> Layout:
        return cls(
            tuple(
                NumericCells(row["name"], tuple(map(float, row["edges"])))
                if "edges" in row
                else CategoryCells(row["name"], tuple(row["categories"]))
                for row in data
            )
        )

    @cached_property
    def digest(self) -> str:
        """Counts can be added only when this agrees."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:16]
