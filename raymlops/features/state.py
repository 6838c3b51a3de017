"""What fitting learns, as plain JSON, and the shape of the arrays that models get."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from raymlops.errors import IntegrityError

VERSION = 1
MISSING, UNKNOWN, FIRST_CATEGORY = 0, 1, 2
"""Indices of a categorical column: missing, rare or never seen in training, then the known categories."""


@dataclass(frozen=True)
class ArraySpec:
    """The arrays that a model is built for."""

    numeric: int
    """Columns of the float32 array `numeric` (n, numeric); absent from the inputs when 0."""
    cardinalities: tuple[int, ...]
    """Per column of the int32 array `categorical` (n, columns): its values lie in [0, cardinality)."""
    tensors: dict[str, tuple[int, ...]]
    """Name to the shape of one row's float32 array."""
    outputs: int
    """Columns a model returns: 1 for regression and binary (as (n,)), the number of classes for multiclass."""
    numeric_names: tuple[str, ...] = ()
    categorical_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumericState:
    """`fill` replaces missing values before the transform; (x − center) / scale follows it."""

    fill: float
    center: float
    scale: float

    @classmethod
    def of(cls, content: dict[str, Any]) -> NumericState:
        """From JSON. Raises ValueError for numbers that a transform cannot use."""
        state = cls(**{name: float(value) for name, value in content.items()})
        if not all(map(math.isfinite, (state.fill, state.center, state.scale))) or not state.scale > 0:
            raise ValueError(f"expected finite numbers and a positive scale, found {content}")
        return state


@dataclass(frozen=True)
class FeatureState:
    """Everything fitted on the training rows."""

    numeric: dict[str, NumericState]
    categories: dict[str, tuple[str, ...]]
    """Known categories per column, most frequent first."""
    years: dict[str, NumericState]
    """Centre and scale of the year, for date columns that use it."""
    inputs: dict[str, str]
    """How each input of a derived feature is handed over: number, time or text."""
    target: dict[str, Any]
    """Regression: {"mean", "scale"}. Classes: {"classes": [...]}, the second of two is the positive one."""
    rows: int = 0
    """Training rows seen."""
    sampled: int = 0
    """Rows that the numeric statistics were computed from."""

    def to_json(self) -> str:
        """Canonical text: equal states give equal bytes, and every float comes back exactly."""

        def numeric(states: dict[str, NumericState]) -> dict[str, Any]:
            return {n: {"fill": s.fill, "center": s.center, "scale": s.scale} for n, s in states.items()}

        content = {
            "version": VERSION,
            "numeric": numeric(self.numeric),
            "categories": {name: list(values) for name, values in self.categories.items()},
            "years": numeric(self.years),
            "inputs": self.inputs,
            "target": self.target,
            "rows": self.rows,
            "sampled": self.sampled,
        }
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> FeatureState:
        """Raises IntegrityError when the text is not a feature state of a version that this code knows."""
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                raise IntegrityError(f"features.json: version {content['version']!r} found, {VERSION} expected")
            return cls(
                numeric={n: NumericState.of(s) for n, s in content["numeric"].items()},
                categories={n: _texts(values) for n, values in content["categories"].items()},
                years={n: NumericState.of(s) for n, s in content["years"].items()},
                inputs=dict(content["inputs"]),
                target=_target(content["target"]),
                rows=int(content["rows"]),
                sampled=int(content["sampled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"features.json: not a feature state ({type(error).__name__}: {error})") from error


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values) or len(set(values)) != len(values):
        raise ValueError(f"expected distinct texts, found {values[:5]}")
    return tuple(values)


def _target(content: dict[str, Any]) -> dict[str, Any]:
    if "classes" in content:
        return {"classes": list(_texts(content["classes"]))}
    scaling = NumericState.of({"fill": 0.0, "center": content["mean"], "scale": content["scale"]})
    return {"mean": scaling.center, "scale": scaling.scale}
