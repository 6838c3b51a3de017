"""One day's rows, and what the detectors of a version say to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymlops.config.tree import Config
from raymlops.data.contract import Contract
from raymlops.features.rows import Rows
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.day_rows import clock, inputs_of
from raymlops.monitoring.drift import DriftDetector, DriftFinding
from raymlops.monitoring.label_coverage import label_line, label_problems
from raymlops.monitoring.label_match import micros
from raymlops.monitoring.label_shape import OUTPUT
from raymlops.monitoring.losses import OVERALL, LossSums, slice_masks
from raymlops.monitoring.performance import LossDetector, LossFinding
from raymlops.monitoring.quality_days import DayQuality, newest_of, typed
from raymlops.monitoring.references import References
from raymlops.monitoring.row_losses import PREDICTION, labelled_errors
from raymlops.monitoring.signals import Kind
from raymlops.monitoring.watch_state import WatchState
from raymlops.store import Store

_SHOWN = 3


class Judge:
    """Gives a version's days to its detectors, and their verdicts to its state. Days come in order."""

    def __init__(
        self, config: Config, store: Store, references: References, contract: Contract | None, state: WatchState
    ) -> None:
        self._config, self._references, self._contract = config, references, contract
        self._state, chosen = state, config.monitoring
        self.quality = DayQuality(config, store, contract)
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
        labels = chosen.labels.min_share is not None or chosen.labels.max_delay is not None
        enabled = {"degradation": chosen.performance.enabled, "drift": chosen.drift.enabled, "labels": labels}
        return enabled.get(kind, kind == "quality" and chosen.quality.enabled)

    def inputs(self, day: str, mine: pa.Table, everything: pa.Table) -> None:
        """Answered rows of a closed day, those of the version and those of all versions."""
        line = self._state.day(day)
        line["rows"] = mine.num_rows
        if self.watches("labels"):
            line["rows_of"] = {name: int(mask.sum()) for name, mask in self._slices(mine).items()}
        if self._drift is not None and mine.num_rows:
            inputs = inputs_of(typed(self._contract, mine))
            rows = self._references.watched(inputs, mine.column(OUTPUT + PREDICTION))
            strata, layout = self._drift.reference.strata, self._drift.reference.layout
            for finding in self._drift.update(Counts.by_day(layout, rows, clock(self._config, mine), strata)):
                self._drifted(finding)
        self._state.answered(newest_of(self._config, everything))
        self._quality(day, everything.num_rows, mine)

    def silence(self, day: str, nothing: pa.Table) -> None:
        """A closed day on which the endpoint answered nothing, after one on which it did. `nothing` has no rows."""
        self._state.day(day)["rows"] = 0
        self._quality(day, 0, nothing)

    def losses(self, day: str, table: pa.Table) -> None:
        """Labelled rows of a day whose labels are due."""
        line = self._state.day(day)
        line["labelled"] = table.num_rows
        masks = self._slices(table)
        if self.watches("labels"):
            line |= label_line((micros(table.column("labelled_at")) - micros(table.column("time"))) / 1e6, masks)
        if self._losses is None:
            return
        losses = self._references.losses(labelled_errors(self._config, table))
        line["loss"] = _short(float(losses.mean()))
        for finding in self._losses.update(LossSums.of(self._losses.levels, losses, [day] * len(losses), masks)):
            self._lost(finding)

    def labels(self, until: str) -> None:
        """Coverage and delay of the labels of days before `until`, which are due."""
        state, wanted = self._state, self._config.monitoring.labels
        until = min(until, state.inputs_until)
        for day in [day for day in sorted(state.days) if state.coverage_until <= day < until]:
            line = state.days[day]
            if not self.watches("labels") or not line.get("rows"):
                continue
            problems = line["labels"] = label_problems(line, wanted)
            if problems:
                state.alarmed("labels", day, day, "; ".join(problems[:_SHOWN]), {"problems": problems})
            else:
                state.judged("labels", day, f"labels have come as they should until {day}", {})
        state.coverage_until = max(state.coverage_until, until)

    def done(self) -> None:
        """The detectors as they are now, into the state; and what is about the moment instead of a day."""
        self._state.drift = None if self._drift is None else self._drift.to_json()
        self._state.losses = None if self._losses is None else self._losses.to_json()
        for kind, judged in (("drift", self._drift), ("degradation", self._losses)):
            word = "losses" if kind == "degradation" else "drift"
            notes = [note for note in self._references.notes if note.startswith(word)]
            if judged is None and notes:
                self._state.latest[kind] = {"window": "", "reason": notes[0], "numbers": {}}  # type: ignore[index]

    def _slices(self, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
        """Rows (n,) of each slice; a column that the day lacks has no values."""
        inputs = inputs_of(table)
        columns = {name: inputs.column(name) for name in inputs.column_names}
        absent = {name: pa.nulls(table.num_rows) for name in self._references.slices if name not in columns}
        return slice_masks(Rows({**columns, **absent}, table.num_rows), self._references.slices)

    def _drifted(self, found: DriftFinding) -> None:
        numbers: dict[str, Any] = {"statistic": _short(found.statistic), "threshold": found.threshold}
        line = self._state.day(found.window)
        line["drift"] = {**numbers, "evidence": {name: _short(value) for name, value in found.evidence.items()}}
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
        numbers: dict[str, Any] = {"statistic": _short(found.statistic), "threshold": found.threshold}
        line = self._state.day(found.window)
        line["degradation"] = dict(numbers)
        numbers |= {"scale": self._references.scale, **levels[OVERALL]}
        if not found.alarm:
            reason = f"the loss is not above its level at registration until {found.window}"
            self._state.judged("degradation", found.window, reason, numbers)
            return
        line["degradation_alarm"] = True
        told = {row.name: str(row.scaled(self._references.scale)) for row in found.worse}
        numbers["worse"] = [{"slice": name, "text": text} for name, text in told.items()]
        reason = "; ".join(list(told.values())[:_SHOWN])
        self._state.alarmed("degradation", found.window, found.worse[0].since, reason, numbers)

    def _quality(self, day: str, rows: int, mine: pa.Table) -> None:
        if not self._config.monitoring.quality.enabled:
            return
        problems = self.quality.problems(day, rows, mine, self._state.last_answer())
        self._state.day(day)["quality"] = problems
        if problems:
            self._state.alarmed("quality", day, day, "; ".join(problems[:_SHOWN]), {"problems": problems})
        elif mine.num_rows:
            self._state.judged("quality", day, f"rows keep the contract until {day}", {})


def _short(value: float) -> float | None:
    """Four digits will do. JSON has no infinities: no evidence at all is none."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
