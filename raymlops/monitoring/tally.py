"""Sums by window and part: what a replica contributes instead of rows, and the window that a detector is filling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raymlops.errors import DataError
from raymlops.monitoring.packing import pack_counts, unpack_counts

Parts: TypeAlias = dict[int, NDArray[Any]]
"""A window's vectors by part: a stratum of time, or a slice of the rows."""


@dataclass
class Tally:
    """Vectors by (window, part). A window is a day for the days of a reference, and whatever its name says for others;
    names sort in order of time (ISO 8601 does)."""

    digest: str
    """What was counted, and how: tallies can be added only when this agrees."""
    values: dict[tuple[str, int], NDArray[Any]] = field(default_factory=dict)

    def merge(self, other: Tally) -> Self:
        """Adds another tally, in any order. Raises DataError when it was counted otherwise."""
        self.check(other.digest)
        for at, vector in other.values.items():
            known = self.values.get(at)
            self.values[at] = vector.copy() if known is None else known + vector
        return self

    def check(self, digest: str) -> None:
        """Raises DataError unless something with this digest may be added."""
        if digest != self.digest:
            raise DataError(f"counts: expected those of reference {self.digest}, found {digest}; is a replica behind?")

    @property
    def windows(self) -> list[str]:
        return sorted({window for window, _ in self.values})

    def of_window(self, window: str) -> Parts:
        return {part: vector for (name, part), vector in sorted(self.values.items()) if name == window}

    def to_dict(self) -> dict[str, Any]:
        return {"digest": self.digest, "values": [[*at, v.tolist()] for at, v in sorted(self.values.items())]}


class OpenWindow:
    """The window that is being filled. An earlier window is closed, and so is one that has raised an alarm."""

    def __init__(self) -> None:
        self.name, self.spent = "", False
        self.parts: Parts = {}

    def is_late(self, window: str) -> bool:
        return window < self.name or (window == self.name and self.spent)

    def begin(self, window: str) -> None:
        self.name, self.spent, self.parts = window, False, {}

    def add(self, parts: Mapping[int, NDArray[Any]]) -> None:
        for part, vector in parts.items():
            known = self.parts.get(part)
            self.parts[part] = vector.copy() if known is None else known + vector

    def spend(self) -> None:
        """After an alarm: its rows have had their say."""
        self.spent, self.parts = True, {}

    def to_dict(self) -> dict[str, Any]:
        known = sorted(self.parts.items())
        vectors: Any = [vector.tolist() for _, vector in known]
        if known and known[0][1].dtype.kind == "i":
            vectors = pack_counts(np.stack([vector for _, vector in known]))
        return {"name": self.name, "spent": self.spent, "parts": [part for part, _ in known], "vectors": vectors}

    def load(self, data: Mapping[str, Any], like: NDArray[Any]) -> None:
        """What `to_dict` gave, as vectors of the shape and type of `like`. Raises ValueError when they are not."""
        self.name, self.spent = str(data["name"]), bool(data["spent"])
        parts, vectors = [int(part) for part in data["parts"]], data["vectors"]
        if isinstance(vectors, str):
            vectors = unpack_counts(vectors, (len(parts), *like.shape))
        known = zip(parts, vectors, strict=True)
        self.parts = {part: np.array(vector, like.dtype).reshape(like.shape) for part, vector in known}
