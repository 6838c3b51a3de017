"""What the loss of a version is likely to be, before labels come: fitted on its own holdout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.errors import StoreError
from raymlops.features.rows import Rows
from raymlops.monitoring.calibration import Calibration, expected_metrics
from raymlops.monitoring.cells import Layout
from raymlops.monitoring.day_rows import inputs_of
from raymlops.monitoring.loss_model import LossModel
from raymlops.monitoring.references import References, watched_rows
from raymlops.monitoring.row_losses import PREDICTION, PROBABILITY, row_errors
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.versions import VersionRef


@dataclass(frozen=True)
class Estimate:
    method: str
    """For readers: how, and how much to make of it."""
    expected: Callable[[pa.Table], float]
    """Mean loss in [0, 1] of answered rows, columns as in the prediction log; NaN if unknown."""


def estimate_of(config: Config, store: Store, version: VersionRef, references: References) -> Estimate | None:
    """A loss model on the cells of the drift monitor for regression (None without drift reference), CBPE for
    wrong classes (None for log loss).

    Scores the holdout. Raises StoreError when the snapshot is gone, DataError when the holdout is too small.
    """
    from raymlops.data.snapshot import Snapshot

    package = version.load()
    name = package.manifest.get("facts", {}).get("snapshot")
    if name is None:
        raise StoreError(f"{version.uri}: its package does not name the snapshot that it was trained on")
    holdout = Snapshot.open(store, name).table("holdout")
    answers = package.predict(holdout.to_pandas())
    errors = row_errors(config, Rows.of(answers).columns, holdout.column(config.data.target), holdout.num_rows)
    losses = references.losses(errors)
    if config.monitoring.performance.loss == "log_loss":
        return None
    if config.task != "regression":
        scores = [column for column in answers.columns if column.startswith(PROBABILITY)]
        return by_calibration(answers[scores].to_numpy(float).max(axis=1), losses)
    if references.drift is None:
        return None
    return by_loss_model(references.drift.layout, holdout, answers[PREDICTION].to_numpy(), losses, references.answer)


def by_calibration(confidence: Any, losses: Any) -> Estimate:
    """From the probability of the predicted class of labelled rows, (n,), and whether it was wrong."""
    calibration = Calibration.fit(np.clip(confidence, 0.0, 1.0), 1.0 - np.asarray(losses))

    def expected(rows: pa.Table) -> float:
        names = [name for name in rows.column_names if name.startswith(f"output.{PROBABILITY}")]
        if not names or not rows.num_rows:
            return float("nan")
        scores = np.stack([Rows.of(rows).numbers(name) for name in names], axis=1)
        known = np.isfinite(scores).all(axis=1)
        found = expected_metrics(calibration.sums(np.clip(scores[known].max(axis=1, initial=0.0), 0.0, 1.0)))
        return found.get("error", float("nan"))

    return Estimate("the expected share of wrong classes, from scores calibrated on the holdout (CBPE).", expected)


def by_loss_model(layout: Layout, holdout: pa.Table, predicted: Any, losses: Any, answer: str = PREDICTION) -> Estimate:
    """From labelled rows, inputs under their own names, what was predicted for them, and their losses, each (n,).

    `answer` is what the layout calls the prediction."""
    columns = [cells.name for cells in layout.features]
    model = LossModel.fit(layout, watched_rows(columns, answer, holdout, predicted), losses)

    def expected(rows: pa.Table) -> float:
        if not rows.num_rows:
            return float("nan")
        watched = watched_rows(columns, answer, inputs_of(rows), rows.column(f"output.{PREDICTION}"))
        return model.expected(layout, layout.count(Rows.of(watched))[0])

    explained = max(model.explained, 0.0)
    method = f"the expected loss given inputs and predictions, which explain {explained:.0%} of it on the holdout."
    return Estimate(method, expected)
