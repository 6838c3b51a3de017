"""What an answer costs, given its label: the error of a row, before it is counted up to a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.features.rows import Rows
from raymlops.monitoring.label_shape import OUTPUT
from raymlops.monitoring.margins import Array

PREDICTION, PROBABILITY = "prediction", "probability_"
LOG_LOSS_SCALE = 4.605
"""-ln 0.01: a label to which the model gave a probability of 1 % or less is as wrong as can be."""
_LEAST = 1e-15


def row_errors(config: Config, outputs: Mapping[str, Any], actual: Any, rows: int) -> Array:
    """Of answers, columns of outputs by name, and what came to be, (n,): |actual - predicted| for regression; for
    classes 1 if the class is wrong, or -ln of the probability that the label had (`monitoring.performance.loss`)."""
    given = Rows({**outputs, "actual": actual}, rows)
    if config.task == "regression":
        return np.asarray(np.abs(given.numbers("actual") - given.numbers(PREDICTION)))
    labels = given.texts("actual")
    if config.monitoring.performance.loss == "error":
        return np.asarray(given.texts(PREDICTION) != labels, np.float64)
    chance = np.zeros(rows)
    for name in outputs:
        if name.startswith(PROBABILITY):
            at = labels == name.removeprefix(PROBABILITY)
            chance[at] = np.nan_to_num(given.numbers(name)[at])
    return -np.log(np.maximum(chance, _LEAST))


def labelled_errors(config: Config, table: pa.Table) -> Array:
    """The same of labelled rows with the columns of the log, (n,)."""
    outputs = {name.removeprefix(OUTPUT): table.column(name) for name in table.column_names if name.startswith(OUTPUT)}
    return row_errors(config, outputs, table.column(config.data.target), table.num_rows)
