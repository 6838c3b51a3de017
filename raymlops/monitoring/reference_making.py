"""References of a version, made from its own snapshot and its own package, a shard at a time.

Inputs are compared with the rows that the version was trained on. Its answers, and its losses, are compared with those
on its holdout, which it was not fitted on: to the rows that it knows a model gives other answers than to fresh ones.
How alike the answers and the losses of one day are is estimated from all days, of which there are more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.errors import DataError, StoreError
from raymlops.features.rows import Rows
from raymlops.monitoring.losses import LossDays, LossLevels, slice_masks
from raymlops.monitoring.margins import Array
from raymlops.monitoring.reference_counts import InputCounts
from raymlops.monitoring.references import References, clock_column
from raymlops.monitoring.row_losses import LOG_LOSS_SCALE, PREDICTION, row_errors
from raymlops.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from raymlops.registry.versions import VersionRef

HOLDOUT, FITTED = "holdout", ("train", "validation")
SCALE_QUANTILE = 0.99
SLICE_VALUES, SLICE_ROWS = 10, 50
"""Most values of a column that are slices of their own, and least holdout rows of one."""
log = logging.getLogger(__name__)


def make_references(config: Config, store: Store, version: VersionRef) -> References:
    """Reads the snapshot once and scores it. Raises StoreError when it is gone, IntegrityError when something was
    changed."""
    from raymlops.data.snapshot import Snapshot

    package = version.load()
    facts = package.manifest.get("facts", {})
    if "snapshot" not in facts:
        raise StoreError(f"{version.uri}: its package does not name the snapshot that it was trained on")
    snapshot = Snapshot.open(store, facts["snapshot"])
    notes: list[str] = []
    columns, slices = _watched(config, list(package.config.features.raw_columns()), notes)

    def scored(part: str) -> Iterator[tuple[pa.Table, pd.DataFrame]]:
        for table in snapshot.tables(part):
            if table.num_rows:
                yield table, package.predict(table.to_pandas())

    losses = {part: PartLosses(config, slices) for part in (HOLDOUT, *FITTED)}
    drift = InputCounts(config, columns) if config.monitoring.drift.enabled else None
    for table, answers in scored(HOLDOUT):
        losses[HOLDOUT].add(table, answers)
        if drift is not None:
            drift.answered(table, answers[PREDICTION].to_numpy())
    if drift is not None:
        drift.choose_cells(snapshot.tables("train"), notes)
    for part in FITTED:
        for table, answers in scored(part):
            losses[part].add(table, answers)
            if drift is not None:
                drift.fitted(table, answers[PREDICTION].to_numpy(), inputs=part == "train")
    levels, scale, values = None, 1.0, dict[str, list[str]]()
    if config.monitoring.performance.enabled:
        levels, scale, values = _levels(config, losses, notes)
    reference = None if drift is None else drift.reference(notes)
    for note in notes:
        log.warning("%s, version %s: %s", config.name, version.version, note)
    return References(reference, levels, scale, values, notes, PREDICTION if drift is None else drift.answer)


def _watched(config: Config, inputs: list[str], notes: list[str]) -> tuple[list[str], list[str]]:
    """Columns whose drift, and columns whose slices can be watched: those that the version reads and the log keeps."""
    kept = [name for name in inputs if name not in config.serving.log.redact]
    hidden = [name for name in inputs if name not in kept]
    chosen = config.monitoring.drift.columns
    if hidden:
        said = "the prediction log does not keep what serving.log.redact names, and train/serve skew is not checked"
        notes.append(f"inputs not watched: {', '.join(hidden)} ({said})")
    if chosen is not None and (absent := [name for name in chosen if name not in inputs]):
        notes.append(f"inputs not watched: {', '.join(absent)} (the version does not read what is named there)")
    performance = config.monitoring.performance
    slices = config.gate.slices if performance.slices is None else performance.slices
    unlogged = [name for name in slices if name not in kept]
    if unlogged and performance.enabled:
        said = "the prediction log has only what the version reads, without serving.log.redact"
        notes.append(f"slices not watched: {', '.join(unlogged)} ({said})")
    drift = kept if chosen is None else [name for name in chosen if name in kept]
    return drift, [name for name in slices if name in kept]


class PartLosses:
    """Of the rows of a part: the error, the day and the columns that slices are named by, and nothing else."""

    def __init__(self, config: Config, slices: list[str]) -> None:
        self._config, self._names, self.rows = config, slices, 0
        self._errors: list[Array] = []
        self._days: list[np.ndarray] = []
        self._tables: list[pa.Table] = []
        self.dated = True

    def add(self, table: pa.Table, answers: Any) -> None:
        """Rows of a snapshot, and what the version says to them, as `ModelPackage.predict` does."""
        clock, actual = clock_column(self._config, table), table.column(self._config.data.target)
        self._errors.append(row_errors(self._config, Rows.of(answers).columns, actual, table.num_rows))
        if clock is None:
            # Nothing is known of how alike the rows of a day are: seven days are made up, too few to estimate it
            # from, so that each day of production is one observation.
            self.dated = False
            self._days.append((self.rows + np.arange(table.num_rows)) % 7)
        else:
            self._days.append(Rows.of(table).times(clock).astype("datetime64[D]"))
        self._tables.append(table.select(self._names))
        self.rows += table.num_rows

    @property
    def errors(self) -> Array:
        """As `row_errors` gives them, (n,)."""
        return np.concatenate(self._errors)

    @property
    def days(self) -> np.ndarray:
        """What stands for the day of each row, (n,)."""
        return np.concatenate(self._days)

    @property
    def slices(self) -> pa.Table:
        return pa.concat_tables(self._tables)


def _levels(
    config: Config, parts: dict[str, PartLosses], notes: list[str]
) -> tuple[LossLevels | None, float, dict[str, list[str]]]:
    chosen, holdout = config.monitoring.performance, parts[HOLDOUT]
    if config.task == "regression":
        quantile = float(f"{np.quantile(holdout.errors, SCALE_QUANTILE):.4g}")
        scale = chosen.loss_scale or max(quantile, 1e-12)
    else:
        scale = 1.0 if chosen.loss == "error" else chosen.loss_scale or LOG_LOSS_SCALE
    fitted = [parts[part] for part in FITTED if parts[part].rows]
    values = _slice_values(holdout)
    alike = None
    if holdout.dated and fitted:
        masks = [_masks(part, values) for part in fitted]
        joined = {name: np.concatenate([mask[name] for mask in masks]) for name in masks[0]}
        seen = np.concatenate([part.errors for part in fitted]), np.concatenate([part.days for part in fitted])
        alike = LossDays(np.minimum(1.0, seen[0] / scale), seen[1], joined)
    days = None if chosen.independent else holdout.days
    losses = np.minimum(1.0, holdout.errors / scale)
    try:
        return LossLevels.of(losses, days, _masks(holdout, values), chosen.tolerance, alike=alike), scale, values
    except DataError as error:
        notes.append(f"losses are not judged: {error}")
        return None, scale, {}


def _masks(part: PartLosses, values: dict[str, list[str]]) -> dict[str, Any]:
    return slice_masks(part.slices, values) if values else {}


def _slice_values(part: PartLosses) -> dict[str, list[str]]:
    """The frequent values of each column; each needs labelled rows of two days."""
    found, table, days = {}, part.slices, part.days
    for column in table.column_names:
        texts = Rows.of(table).texts(column)
        counted = Counter(value for value in texts.tolist() if value is not None)
        frequent = [value for value, rows in counted.most_common(SLICE_VALUES) if rows >= SLICE_ROWS]
        found[column] = sorted(value for value in frequent if len(np.unique(days[texts == value])) > 1)
    return found
