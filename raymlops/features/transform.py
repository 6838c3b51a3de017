"""Rows to arrays: the one implementation that feeds training, evaluation, batch scoring and endpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raymlops.config.features import FeaturesConfig, NumericFeature
from raymlops.errors import DataError, IntegrityError
from raymlops.features.columns import from_pandas, is_arrow
from raymlops.features.dates import PERIODS, cyclic, year
from raymlops.features.derive import Functions, with_derived
from raymlops.features.rows import Rows
from raymlops.features.state import FIRST_CATEGORY, MISSING, UNKNOWN, ArraySpec, FeatureState

LARGEST = float(np.finfo(np.float32).max)
"""Limit of features that are not clipped, so that no input can make an infinite one."""


class Transform:
    """Fitted features.

    Everything is computed element by element in float64 and rounded to float32 once, so that a row gives the same bits
    alone, in a batch of a million, and on any position in it.
    """

    def __init__(self, config: FeaturesConfig, state: FeatureState, task: str, functions: Functions) -> None:
        self.config, self.state, self.task, self.functions = config, state, task, functions
        _check_complete(config, state, task)
        self._lookup = {
            name: {value: index for index, value in enumerate(state.categories[name], FIRST_CATEGORY)}
            for name in config.categorical
        }
        self._classes = {label: index for index, label in enumerate(state.target.get("classes", []))}
        self.spec = self._spec()
        self._scaled = _Scaled(config.numeric, state) if config.numeric else None

    def _spec(self) -> ArraySpec:
        names: list[str] = []
        for name, feature in self.config.numeric.items():
            names += [name, f"{name}:missing"] if feature.missing_indicator else [name]
        for name, dates in self.config.dates.items():
            for part in dates.parts:
                names += [f"{name}:{part}"] if part == "year" else [f"{name}:{part}:sin", f"{name}:{part}:cos"]
        return ArraySpec(
            numeric=len(names),
            cardinalities=tuple(len(self._lookup[name]) + FIRST_CATEGORY for name in self.config.categorical),
            tensors={name: tuple(tensor.shape) for name, tensor in self.config.tensor.items()},
            outputs=len(self._classes) if self.task == "multiclass" else 1,
            numeric_names=tuple(names),
            categorical_names=tuple(self.config.categorical),
        )

    def batch(self, rows: Any) -> dict[str, np.ndarray]:
        """Arrays for a pyarrow Table, pandas DataFrame, one mapping, or a list of mappings.

        Returns `numeric` float32 (n, d), `categorical` int32 (n, c) and each tensor feature float32 (n, *shape); kinds
        that are not declared are absent. Raises DataError naming column, row and value.
        """
        raw = with_derived(self.config, self.functions, self.state.inputs, Rows.of(rows))
        out: dict[str, np.ndarray] = {}
        if self.spec.numeric:
            out["numeric"] = self._numeric(raw)
        if self.config.categorical:
            codes = np.empty((raw.length, len(self.config.categorical)), dtype=np.int32)
            for j, name in enumerate(self.config.categorical):
                known = self._lookup[name]
                codes[:, j] = raw.codes(name, lambda v, known=known: MISSING if v is None else known.get(v, UNKNOWN))  # type: ignore[misc]
            out["categorical"] = codes
        for name, tensor in self.config.tensor.items():
            values = raw.tensors(name, tensor.shape)
            if tensor.divide_by != 1.0:
                with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                    values = values / np.float32(tensor.divide_by)
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise DataError(f"column {name!r}, row {row}: the array holds NaN or infinity, expected finite numbers")
            out[name] = values
        return out

    def row(self, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays for one row given as a mapping; leading dimension 1, bit-equal to the same row inside a batch."""
        return self.batch(row)

    def _numeric(self, raw: Rows) -> np.ndarray:
        out = np.empty((raw.length, self.spec.numeric), dtype=np.float32)
        j = self._scaled.fill(raw, out) if self._scaled is not None else 0
        for name, dates in self.config.dates.items():
            times = raw.times(name)
            known = ~np.isnat(times)
            for part in dates.parts:
                if part in PERIODS:
                    pair = cyclic(times, part)
                    pair[~known] = 0.0
                    out[:, j : j + 2] = pair
                    j += 2
                else:
                    fitted = self.state.years[name]
                    out[:, j] = np.where(known, (year(times) - fitted.center) / fitted.scale, 0.0)
                    j += 1
        return out

    def targets(self, values: Any) -> np.ndarray:
        """Labels for the loss: float32 standardised (regression) or int64 class indices.

        Raises DataError for missing labels and for classes that training never saw.
        """
        rows = Rows({"label": _labels(values)}, len(values))
        if self.task == "regression":
            numbers = rows.numbers("label")
            if np.isnan(numbers).any():
                raise DataError(
                    f"label: {int(np.isnan(numbers).sum())} of {rows.length} values are missing or infinite"
                )
            scaled = (numbers - self.state.target["mean"]) / self.state.target["scale"]
            return np.asarray(scaled, dtype=np.float32)
        codes = rows.codes("label", lambda v: -2 if v is None else self._classes.get(v, -1))
        if (codes == -2).any():
            raise DataError(f"label: {int((codes == -2).sum())} of {rows.length} values are missing")
        if (codes == -1).any():
            row = int(np.argmax(codes == -1))
            shown = ", ".join(list(self._classes)[:20])
            raise DataError(f"label, row {row}: found {rows.texts('label')[row]!r}, training saw only {shown}")
        return np.asarray(codes, dtype=np.int64)

    def raw_targets(self, values: Any) -> np.ndarray:
        """Labels for metrics: float64 in their own units (regression) or int64 class indices."""
        if self.task != "regression":
            return self.targets(values)
        self.targets(values)  # the same checks
        return Rows({"label": _labels(values)}, len(values)).numbers("label")

    def unscale(self, outputs: np.ndarray) -> np.ndarray:
        """Standardised regression outputs in the label's own units, float64."""
        plain = np.asarray(outputs, dtype=np.float64)
        return np.asarray(plain * self.state.target["scale"] + self.state.target["mean"])


class _Scaled:
    """All `numeric` features at one go, a line each: for a single row it is the number of NumPy's calls that costs."""

    def __init__(self, features: Mapping[str, NumericFeature], state: FeatureState) -> None:
        self._features = features
        fitted = [state.numeric[name] for name in features]
        self._fill = np.array([[f.fill] for f in fitted], dtype=np.float64)
        self._center = np.array([[f.center] for f in fitted], dtype=np.float64)
        self._scale = np.array([[f.scale] for f in fitted], dtype=np.float64)
        limits = [LARGEST if feature.clip is None else feature.clip for feature in features.values()]
        self._highest = np.array([[limit] for limit in limits], dtype=np.float64)
        self._lowest = -self._highest
        self._logs = [n for n, feature in enumerate(features.values()) if feature.transform != "none"]
        indicated = [feature.missing_indicator for feature in features.values()]
        self._width = len(features) + sum(indicated)
        self._places = [n + sum(indicated[:n]) for n in range(len(features))]
        self._indicated = [n for n, with_indicator in enumerate(indicated) if with_indicator]

    def fill(self, raw: Rows, out: np.ndarray) -> int:
        """Writes the first columns of `out`, each feature's indicator behind it; returns how many."""
        values = np.empty((len(self._features), raw.length))
        for n, name in enumerate(self._features):
            values[n] = raw.numbers(name)
        missing = np.isnan(values)
        if np.count_nonzero(missing):
            values = np.where(missing, self._fill, values)
        for n in self._logs:
            values[n] = shaped(values[n], "log")
        with np.errstate(over="ignore"):  # becomes the limit
            values -= self._center
            values /= self._scale
        np.minimum(values, self._highest, out=values)  # np.clip takes three times as long for one row
        np.maximum(values, self._lowest, out=values)
        if not self._indicated:
            out[:, : self._width] = values.T
            return self._width
        out[:, self._places] = values.T
        out[:, [self._places[n] + 1 for n in self._indicated]] = missing[self._indicated].T
        return self._width


def shaped(values: np.ndarray, transform: str) -> np.ndarray:
    """The configured shape change, before centring and scaling: none, or sign(x)·log(1 + |x|)."""
    if transform == "none":
        return values
    # math.log1p value by value: NumPy's vector code may round differently at the ends of an array, which would make a
    # single row differ from the same row in a batch.
    logs = np.fromiter(map(math.log1p, np.abs(values).tolist()), np.float64, len(values))
    return np.asarray(np.copysign(logs, values))


def _check_complete(config: FeaturesConfig, state: FeatureState, task: str) -> None:
    years = [name for name, dates in config.dates.items() if "year" in dates.parts]
    inputs = [column for derived in config.derived.values() for column in derived.inputs]
    for kind, names, fitted in (
        ("numeric", config.numeric, state.numeric),
        ("categorical", config.categorical, state.categories),
        ("dates", years, state.years),
        ("derived inputs", inputs, state.inputs),
        ("target", ["mean", "scale"] if task == "regression" else ["classes"], state.target),
    ):
        lacking = [name for name in names if name not in fitted]
        if lacking:
            raise IntegrityError(f"features.json: nothing fitted for {kind} {', '.join(lacking)}")


def _labels(values: Any) -> Any:
    if hasattr(values, "iloc"):
        return from_pandas(values)
    is_numeric = isinstance(values, np.ndarray) and values.dtype.kind in "biuf"
    return values if is_numeric or is_arrow(values) else list(values)
