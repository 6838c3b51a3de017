"""What a registered version is compared with in production: made once, from its own snapshot and its own package.

Drift: the rows that it was trained on. Losses: its errors on its holdout, which it was not fitted on; how alike the
losses of one day are is estimated from training days too, of which there are more.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.errors import DataError, IntegrityError, StoreError
from raymlops.features.rows import Rows
from raymlops.monitoring.building import layout_of_rows
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.losses import LossDays, LossLevels, clipped_error, slice_masks
from raymlops.monitoring.margins import Array
from raymlops.monitoring.reference import Reference
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.versions import VersionRef

FORMAT = 1
PREDICTION = "prediction"
SCALE_QUANTILE = 0.99
SLICE_VALUES, SLICE_ROWS = 10, 50
"""Most values of a column that are slices of their own, and least holdout rows of one."""


@dataclass(frozen=True)
class References:
    """Of one version. `drift` and `levels` are None when they are not watched or cannot be; `notes` say why."""

    drift: Reference | None
    levels: LossLevels | None
    scale: float
    """Absolute error that is a loss of 1; 1 for classes."""
    slices: dict[str, list[str]]
    """Column → values that are slices of their own."""
    notes: list[str]

    def losses(self, config: Config, predicted: Any, actual: Any) -> Array:
        """In [0, 1], (n,): clipped error, or whether the class is wrong."""
        if config.task == "regression":
            return clipped_error(actual, predicted, self.scale)
        return _wrong(predicted, actual)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "drift": None if self.drift is None else json.loads(self.drift.to_json()),
                "levels": None if self.levels is None else self.levels.to_dict(),
                "scale": self.scale,
                "slices": self.slices,
                "notes": self.notes,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> References:
        """Raises IntegrityError when it is not what `to_json` wrote."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, expected {FORMAT}")
            drift = None if data["drift"] is None else Reference.from_json(json.dumps(data["drift"]))
            levels = None if data["levels"] is None else LossLevels.from_dict(data["levels"])
            return cls(drift, levels, float(data["scale"]), dict(data["slices"]), list(data["notes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"references: cannot be read ({type(error).__name__}: {error})") from error


def references_path(endpoint: str, version: str) -> str:
    return f"monitoring/{endpoint}/{version}/references.json"


def settings_digest(config: Config) -> str:
    """Of everything that references and detectors depend on: another one starts them afresh."""
    chosen = [config.monitoring.model_dump_json(), config.gate.slices, config.task]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]


def references_of(config: Config, store: Store, version: VersionRef) -> References:
    """Those that were written, unless settings have changed since; made and written otherwise.

    Making them reads the snapshot and scores it. Raises StoreError when the snapshot is gone, IntegrityError when
    something was changed.
    """
    path, digest = references_path(config.name, version.version), settings_digest(config)
    try:
        written = json.loads(store.read(path)) if store.exists(path) else None
    except ValueError as error:
        raise IntegrityError(f"{store.location(path)}: is no JSON ({error})") from error
    if written is not None and written.get("settings") == digest:
        return References.from_json(json.dumps(written["references"]))
    made = make_references(config, store, version)
    content = {"settings": digest, "package": version.package_sha256, "references": json.loads(made.to_json())}
    store.write(path, json.dumps(content).encode())
    return made


def make_references(config: Config, store: Store, version: VersionRef) -> References:
    """From the version's snapshot, which holds its rows, and its package, which scores them."""
    from raymlops.data.snapshot import Snapshot

    package = version.load()
    facts = package.manifest.get("facts", {})
    if "snapshot" not in facts:
        raise StoreError(f"{version.uri}: its package does not name the snapshot that it was trained on")
    snapshot = Snapshot.open(store, facts["snapshot"])
    parts = {part: snapshot.table(part) for part in ("train", "validation", "holdout")}
    columns = list(package.config.features.raw_columns())
    notes: list[str] = []
    answers = {part: package.predict(table.to_pandas())[PREDICTION].to_numpy() for part, table in parts.items()}
    drift = (
        _drift(config, parts["train"], columns, answers["train"], notes) if config.monitoring.drift.enabled else None
    )
    levels, scale, slices = None, 1.0, dict[str, list[str]]()
    if config.monitoring.performance.enabled:
        levels, scale, slices = _levels(config, parts, answers, notes)
    return References(drift, levels, scale, slices, notes)


def _drift(config: Config, table: pa.Table, columns: list[str], answers: Any, notes: list[str]) -> Reference | None:
    chosen = config.monitoring.drift
    watched = with_prediction(table, chosen.columns or columns, answers)
    layout = layout_of_rows(watched)
    made = partial(Reference.of_counts, epsilon=chosen.epsilon, independent=chosen.independent)
    clock = clock_column(config, table)
    if clock is None:
        if not chosen.independent:
            notes.append("drift is not judged: training rows have no time; name `data.time_column`")
            return None
        return made(Counts.of(layout, watched, "reference"))
    times = Rows.of(table).times(clock)
    known = ~np.isnat(times)
    rows = watched.filter(pa.array(known))
    try:
        counts = Counts.by_day(layout, rows, times[known], chosen.strata)
        return made(counts, chosen.strata)
    except DataError as error:
        notes.append(f"drift is not judged: {error}")
        return None


def _levels(
    config: Config, parts: dict[str, pa.Table], answers: dict[str, Any], notes: list[str]
) -> tuple[LossLevels | None, float, dict[str, list[str]]]:
    chosen, target = config.monitoring.performance, config.data.target
    holdout, regression = parts["holdout"], config.task == "regression"
    scale = 1.0
    if regression:
        errors = np.abs(Rows.of(holdout).numbers(target) - answers["holdout"].astype(float))
        scale = chosen.loss_scale or max(float(f"{np.quantile(errors, SCALE_QUANTILE):.4g}"), 1e-12)

    def losses(part: str) -> Array:
        rows = Rows.of(parts[part])
        if regression:
            return clipped_error(rows.numbers(target), answers[part], scale)
        return _wrong(answers[part], parts[part].column(target))

    days = {part: _days(config, table) for part, table in parts.items()}
    names = config.gate.slices if chosen.slices is None else chosen.slices
    slices = _slice_values(holdout, names, days["holdout"])
    fitted = [part for part in ("train", "validation") if parts[part].num_rows]
    masks = {part: slice_masks(parts[part], slices) for part in parts}
    alike = None
    if clock_column(config, holdout) is not None and fitted:
        joined = {name: np.concatenate([masks[part][name] for part in fitted]) for name in masks["holdout"]}
        seen = np.concatenate([losses(part) for part in fitted]), np.concatenate([days[part] for part in fitted])
        alike = LossDays(*seen, joined)
    given = None if chosen.independent else days["holdout"]
    try:
        return LossLevels.of(losses("holdout"), given, masks["holdout"], chosen.tolerance, alike=alike), scale, slices
    except DataError as error:
        notes.append(f"losses are not judged: {error}")
        return None, scale, {}


def with_prediction(table: pa.Table, columns: list[str], answers: Any) -> pa.Table:
    """The watched columns of some rows, absent ones as missing, and what was predicted for them."""
    found = {name: table.column(name) if name in table.column_names else pa.nulls(table.num_rows) for name in columns}
    return pa.table({**found, PREDICTION: pa.array(answers)})


def clock_column(config: Config, table: pa.Table) -> str | None:
    """The column whose days the rows of a snapshot belong to; a retraining's rows have the time of the prediction."""
    wanted = (config.monitoring.time, config.time_column, "time")
    return next((name for name in wanted if name is not None and name in table.column_names), None)


def _days(config: Config, table: pa.Table) -> np.ndarray:
    """Name of each row's day. Where rows have no time, nothing is known of how alike those of a day are: seven days
    are made up, too few to estimate it from, so that each day of production is one observation."""
    clock = clock_column(config, table)
    if clock is None:
        return np.array([f"part {n}" for n in np.arange(table.num_rows) % 7])
    return np.datetime_as_string(Rows.of(table).times(clock), unit="D")


def _slice_values(table: pa.Table, columns: list[str], days: np.ndarray) -> dict[str, list[str]]:
    """The frequent values of each column; each needs labelled rows of two days."""
    found = {}
    for column in columns:
        texts = Rows.of(table).texts(column)
        counted = Counter(value for value in texts.tolist() if value is not None)
        frequent = [value for value, rows in counted.most_common(SLICE_VALUES) if rows >= SLICE_ROWS]
        found[column] = sorted(value for value in frequent if len(set(days[texts == value])) > 1)
    return found


def _wrong(predicted: Any, actual: Any) -> Array:
    given, known = ({"label": side if hasattr(side, "type") else list(side)} for side in (predicted, actual))
    texts = [Rows(columns, len(columns["label"])).texts("label") for columns in (given, known)]
    return np.asarray(texts[0] != texts[1], np.float64)
