"""From the store to a report: a look at the champion, then its days, its labels and those of the versions before it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from raymlops.config.monitoring import BY_PREDICTION
from raymlops.config.tree import Config
from raymlops.errors import DataError, RaymlopsError, StoreError
from raymlops.monitoring.attribution import Moved
from raymlops.monitoring.day_rows import labelled_rows, logged_rows
from raymlops.monitoring.drift import DriftFinding
from raymlops.monitoring.estimates import Estimate, estimate_of
from raymlops.monitoring.label_state import joined_until
from raymlops.monitoring.label_status import label_status, logged_slices
from raymlops.monitoring.references import References, references_of, settings_digest
from raymlops.monitoring.report import Alarm, ReportData
from raymlops.monitoring.report_sums import ReportSums, days_of
from raymlops.monitoring.signals import Observation
from raymlops.monitoring.watch import observe
from raymlops.monitoring.watch_state import WatchState
from raymlops.registry.versions import VersionRef
from raymlops.store import Store

DISTANCE_DAYS = 7
"""Days up to the last that are compared with training, for display."""


def report_of(config: Config, base: Path, store: Store, *, since: datetime, now: datetime) -> ReportData:
    """Of predictions made in [since, now), two aware times. Judges what is new, as `observe` does; joins no labels.

    Raises RaymlopsError when there is no champion, StoreError and IntegrityError.
    """
    from raymlops.data.contract_file import current_contract
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import champion

    name = config.name
    seen = observe(config, base, store, now=now)
    found = champion(tracking(config.tracking.uri, store), name)
    if found is None or found.version != seen.version:
        raise RaymlopsError(f"{name}: the champion changed while the report was made; run it again")
    references = references_of(config, store, found)
    estimate, notes = _estimate(config, store, found, references)
    first = since.astimezone(UTC).date().isoformat() if config.monitoring.time == BY_PREDICTION else "0001-01-01"
    contract = current_contract(config, base, store)
    sums = ReportSums(config, found.version, references, contract, estimate, first)
    for start, end in days_of(since, now):
        sums.logged(logged_rows(store, config, start, end))
        sums.labelled(labelled_rows(store, config, start, end))
    state = WatchState.read(store, name, found.version, settings_digest(config))
    days = sums.days()
    last = max((day.day for day in days), default=now.astimezone(UTC).date().isoformat())
    shown = days[0].day if days else first
    late = max(shown, (date.fromisoformat(last) - timedelta(days=DISTANCE_DAYS - 1)).isoformat())
    distances, rows = sums.distances(late)
    level, scale = None if references.levels is None else references.levels.slices[0], references.scale
    return ReportData(
        name=name,
        version=found.version,
        created=now,
        since=shown,
        until=last,
        unit=_unit(config, scale),
        signals=seen.signals,
        alarms=sorted(_alarms(config, store, seen, shown), key=lambda alarm: alarm.day),
        days=days,
        labels=label_status(store, name, since, now, logged_slices(config), config.gate.max_slices),
        joined_until=joined_until(store, name),
        registered=None if level is None else scale * level.mean,
        limit=None if level is None else scale * level.limit,
        drift=list(_drift(state, shown)),
        moved=_moved(sums, seen),
        distances=distances,
        distance_rows=f"{rows:,} rows of {late} to {last}",
        slices=sums.slices(),
        estimated_by="" if estimate is None else estimate.method,
        notes=[*references.notes, *notes, *_late(state)],
    )


def _late(state: WatchState) -> list[str]:
    """What came too late to be judged, where days are those of a column."""
    found = (("predictions", state.input_parts.late), ("labels", state.label_parts.late))
    return [f"{late:,} {what} came when their day had been judged, or have no time" for what, late in found if late]


def _unit(config: Config, scale: float) -> str:
    if config.task != "regression":
        wrong = config.monitoring.performance.loss == "error"
        return "share of wrong classes" if wrong else f"log loss of a row, counted up to {scale:.4g}"
    return f"absolute error of {config.data.target}, counted up to {scale:.4g}"


def _estimate(
    config: Config, store: Store, version: VersionRef, references: References
) -> tuple[Estimate | None, list[str]]:
    if not config.monitoring.performance.enabled:
        return None, []
    try:
        return estimate_of(config, store, version, references), []
    except (StoreError, DataError) as error:
        return None, [f"no estimate without labels: {error}"]


def _alarms(config: Config, store: Store, seen: Observation, first: str) -> Iterator[Alarm]:
    """Of this and all earlier versions that were watched under the same settings."""
    open_now = {signal.kind: signal.reason for signal in seen.alarms}
    for version in store.list(f"monitoring/{seen.endpoint}"):
        state = WatchState.read(store, seen.endpoint, version, settings_digest(config))
        for day, line in state.days.items():
            if day < first:
                continue
            if line.get("degradation_alarm"):
                text = open_now.get("degradation", "") if version == seen.version else ""
                yield Alarm(day, version, "degradation", text)
            if line.get("drift_alarm"):
                yield Alarm(day, version, "drift", open_now.get("drift", "") if version == seen.version else "")
            if line.get("quality"):
                yield Alarm(day, version, "quality", "; ".join(line["quality"]))
            if line.get("labels"):
                yield Alarm(day, version, "labels", "; ".join(line["labels"]))


def _drift(state: WatchState, first: str) -> Iterator[DriftFinding]:
    for day in sorted(state.days):
        line = state.days[day].get("drift")
        if line is not None and day >= first:
            evidence = {name: -math.inf if value is None else value for name, value in line["evidence"].items()}
            statistic = -math.inf if line["statistic"] is None else line["statistic"]
            alarm = bool(state.days[day].get("drift_alarm"))
            yield DriftFinding(alarm, day, statistic, line["threshold"], evidence, ())


def _moved(sums: ReportSums, seen: Observation) -> list[Moved]:
    for signal in seen.alarms:
        if signal.kind == "drift" and signal.since is not None:
            return sums.moved([row["feature"] for row in signal.numbers["moved"]], signal.since)
    return []
