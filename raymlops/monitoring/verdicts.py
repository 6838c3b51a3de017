"""One day's rows, and what the detectors of a version say to them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymlops.config.tree import Config
from raymlops.data.contract import Contract
from raymlops.features.rows import Rows
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.drift import DriftDetector, DriftFinding
from raymlops.monitoring.label_shape import INPUT, as_kind
from raymlops.monitoring.losses import OVERALL, LossSums, slice_masks
from raymlops.monitoring.performance import LossDetector, LossFinding
from raymlops.monitoring.quality import QualityCounts, QualityLimits, quality_violations
from raymlops.monitoring.references import PREDICTION, References, with_prediction
from raymlops.monitoring.signals import Kind
from raymlops.monitoring.watch_state import WatchState
from raymlops.store import Store

OUTPUT = "output.prediction"
_SHOWN = 3
_HEAD = ("prediction_id", "row", "version", "status")


class Judge:
    """Gives a version's days to its detectors, and their verdicts to its state. Days come in order."""

    def __init__(
        self,
        config: Config,
        store: Store,
        references: References,
        contract: Contract | None,
        state: WatchState,
        now: datetime,
    ) -> None:
        self._config, self._store, self._references, self._contract = config, store, references, contract
        self._state, self._now, chosen = state, now, config.monitoring
        self._drift: DriftDetector | None = None
        if references.drift is not None:
            fresh = DriftDetector(references.drift, chosen.drift.mean_windows)
            self._drift = fresh if state.drift is None else DriftDetector.from_json(state.drift, references.drift)
        self._losses: LossDetector | None = None
        if references.levels is not None:
            anew = LossDetector(references.levels, chosen.performance.mean_windows)
            self._losses = anew if state.losses is None else LossDetector.from_json(state.losses, references.levels)

    def watches(self, kind: Kind) -> bool:
        chosen = self._config.monitoring
        enabled = {"degradation": chosen.performance.enabled, "drift": chosen.drift.enabled}
        return enabled.get(kind, kind == "quality" and chosen.quality.enabled)

    def inputs(self, day: str, table: pa.Table) -> None:
        """Answered rows of a closed day, (n,), inputs under their own names."""
        self._state.day(day)["rows"] = table.num_rows
        if self._drift is not None:
            layout = self._drift.reference.layout
            columns = [cells.name for cells in layout.features if cells.name != PREDICTION]
            rows = with_prediction(typed(self._contract, table), columns, table.column(OUTPUT))
            times = clock(self._config, table)
            counts = Counts.by_day(layout, rows, times, self._drift.reference.strata)
            for finding in self._drift.update(counts):
                self._drifted(finding)
        if self._config.monitoring.quality.enabled:
            self._quality(day, table)

    def losses(self, day: str, table: pa.Table) -> None:
        """Labelled rows of a day whose labels are due."""
        line = self._state.day(day)
        line["labelled"] = table.num_rows
        if self._losses is None:
            return
        losses = self._references.losses(self._config, *answers_and_labels(self._config, table))
        line["loss"] = float(losses.mean())
        masks = slice_masks(table, self._references.slices)
        for finding in self._losses.update(LossSums.of(self._losses.levels, losses, [day] * len(losses), masks)):
            self._lost(finding)

    def done(self) -> None:
        """The detectors as they are now, into the state; and what is about the moment instead of a day."""
        self._state.drift = None if self._drift is None else self._drift.to_json()
        self._state.losses = None if self._losses is None else self._losses.to_json()
        for kind, judged in (("drift", self._drift), ("degradation", self._losses)):
            word = "losses" if kind == "degradation" else "drift"
            notes = [note for note in self._references.notes if note.startswith(word)]
            if judged is None and notes:
                self._state.latest[kind] = {"window": "", "reason": notes[0], "numbers": {}}  # type: ignore[index]

    def _drifted(self, found: DriftFinding) -> None:
        numbers: dict[str, Any] = {"statistic": _plain(found.statistic), "threshold": found.threshold}
        line = self._state.day(found.window)
        line["drift"] = {**numbers, "evidence": {name: _plain(value) for name, value in found.evidence.items()}}
        if not found.alarm:
            reason = f"inputs and predictions are as in training until {found.window}"
            self._state.judged("drift", found.window, reason, numbers)
            return
        line["drift_alarm"] = True
        numbers["moved"] = [{"feature": row.feature, "text": str(row)} for row in found.moved]
        reason = "; ".join(map(str, found.moved[:_SHOWN]))
        self._state.alarmed("drift", found.window, found.moved[0].since, reason, numbers)

    def _lost(self, found: LossFinding) -> None:
        levels = {
            row.name: {"mean": row.mean, "registered": row.registered, "limit": row.limit} for row in found.slices
        }
        numbers: dict[str, Any] = {"statistic": _plain(found.statistic), "threshold": found.threshold}
        line = self._state.day(found.window)
        line["degradation"] = dict(numbers)
        numbers |= {"scale": self._references.scale, **levels[OVERALL]}
        if not found.alarm:
            reason = f"the loss is not above its level at registration until {found.window}"
            self._state.judged("degradation", found.window, reason, numbers)
            return
        line["degradation_alarm"] = True
        numbers["worse"] = [{"slice": row.name, "text": str(row)} for row in found.worse]
        reason = "; ".join(map(str, found.worse[:_SHOWN]))
        self._state.alarmed("degradation", found.window, found.worse[0].since, reason, numbers)

    def _quality(self, day: str, table: pa.Table) -> None:
        from raymlops.monitoring.replay import replay_skew

        chosen, problems = self._config.monitoring.quality, list[str]()
        least, most = chosen.min_rows, chosen.max_rows
        volume = None if least is None and most is None else (least or 0, most if most is not None else 2**62)
        limits = QualityLimits(chosen.max_share, chosen.max_age, volume)
        end = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
        if self._contract is not None:
            newest = clock(self._config, table).max().astype("datetime64[us]").item().replace(tzinfo=UTC)
            columns = [
                name for name in self._config.features.raw_columns() if name not in self._config.serving.log.redact
            ]
            counts = QualityCounts.of(self._contract, typed(self._contract, table), columns, newest)
            found = quality_violations(counts, self._contract, limits, end)
            problems += [f"{row.column}: {row.check}: {row.observed}, expected {row.threshold}" for row in found]
        if chosen.skew_rows:
            sample = table.slice(0, chosen.skew_rows)
            inputs = {*self._config.features.raw_columns()}
            sample = sample.rename_columns([INPUT + name if name in inputs else name for name in sample.column_names])
            skew = replay_skew(self._store, self._config, sample)
            if skew.different:
                why = skew.reason or f"by up to {skew.largest:.4g}, such as {', '.join(skew.examples)}"
                problems.append(f"train/serve skew: {skew.different} of {skew.rows} rows differ ({why})")
        self._state.day(day)["quality"] = problems
        if problems:
            self._state.alarmed("quality", day, day, "; ".join(problems[:_SHOWN]), {"problems": problems})
        else:
            self._state.judged("quality", day, f"rows keep the contract until {day}", {})


def answers_and_labels(config: Config, table: pa.Table) -> tuple[Any, Any]:
    """What was predicted for labelled rows, (n,), and what came to be: numbers for regression."""
    predicted, actual = table.column(OUTPUT), table.column(config.data.target)
    if config.task != "regression":
        return predicted, actual
    rows = Rows({"predicted": predicted, "actual": actual}, table.num_rows)
    return rows.numbers("predicted"), rows.numbers("actual")


def clock(config: Config, table: pa.Table) -> NDArray[np.datetime64]:
    """The times (n,) whose days are the monitor's windows."""
    return Rows.of(table).times("time" if config.monitoring.time == PREDICTION else config.monitoring.time)


def typed(contract: Contract | None, table: pa.Table) -> pa.Table:
    """Columns in the kinds of the contract: a client that sends "3" for 3 has not changed the data."""
    if contract is None:
        return table
    for name, rule in contract.columns.items():
        if name in table.column_names and name not in _HEAD:
            at = table.column_names.index(name)
            table = table.set_column(at, name, as_kind(name, table.column(name), rule.kind))
    return table


def _plain(value: float) -> float | None:
    """JSON has no infinities: no evidence at all is none."""
    return value if math.isfinite(value) else None
