"""Derived features: columns that the user's functions compute before anything else sees the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raymlops.config.features import FeaturesConfig
from raymlops.errors import DataError
from raymlops.features.rows import Rows

Functions = Mapping[str, Callable[..., Any]]
"""Name of the derived feature to its resolved function."""


def with_derived(config: FeaturesConfig, functions: Functions, kinds: Mapping[str, str], rows: Rows) -> Rows:
    """Rows with the derived columns added. Raises DataError naming a function that fails or returns a wrong length."""
    if not config.derived:
        return rows
    columns: dict[str, Any] = dict(rows.columns)
    for name, derived in config.derived.items():
        inputs = [rows.natural(column, kinds[column]) for column in derived.inputs]
        try:
            values = np.asarray(functions[name](*inputs, **derived.params))
        except Exception as error:
            raise DataError(
                f"features.derived.{name}: {derived.function} raised {type(error).__name__}: {error}"
            ) from error
        if values.shape != (rows.length,):
            raise DataError(
                f"features.derived.{name}: {derived.function} returned shape {values.shape}, expected ({rows.length},)"
            )
        # Numbers stay an array; anything else goes value by value through the rules for records.
        columns[name] = values if values.dtype.kind in "biuf" else list(values)
    return Rows(columns, rows.length)
