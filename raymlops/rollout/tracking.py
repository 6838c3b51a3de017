"""The MLflow run of a rollout, owned by its controller: weights, evidence, rates and latencies over time.

Blocking: for threads. Whoever calls keeps the rows and tries again; nothing waits for MLflow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.registry.backend import Tracking, reported
from raymlops.registry.names import KIND_TAG, NAME_TAG
from raymlops.registry.values import cut, finite, key_of
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.totals import quantile

ROLLOUT = "rollout"
ID_TAG = "raymlops.rollout_id"
_MAX_TAG = 5000
_BATCH = 1000
Row = tuple[float, dict[str, float]]
"""Time in seconds, and numbers by name."""


def row_of(conductor: Conductor, now: float) -> Row | None:
    """The numbers of the moment, None when nothing is compared."""
    rollout = conductor.rollout
    if rollout is None or rollout.phase == "ending":
        return None
    course = rollout.course
    totals = rollout.shadow if course is None else course.totals
    found: dict[str, float | None] = {}
    arms = 1 + (len(rollout.candidates) if course is None else course.evidence.config.candidates)
    for arm in range(arms):
        who = "champion" if arm == 0 else f"candidate_{arm}"
        counts = totals.of_arm(arm)
        requests = counts.values["requests"]
        found[f"{who}/requests"] = requests
        for name in ("errors", "timeouts", "fallbacks"):
            found[f"{who}/{name}_rate"] = counts.values[name] / requests if requests else None
        for q in (0.5, 0.95, 0.99):
            found[f"{who}/latency_p{q * 100:g}"] = quantile(counts.latency, q)
    if course is not None:
        for number, share in enumerate(course.shares, start=1):
            found[f"candidate_{number}/share"] = share
        for c in course.finding.candidates if course.finding is not None else ():
            for m in c.metrics:
                found[f"candidate_{c.candidate}/{m.metric}/log_e_rollback"] = m.log_e_rollback
                found[f"candidate_{c.candidate}/{m.metric}/log_e_promotion"] = m.log_e_promotion
    return now, {key_of(name): value for name, value in found.items() if value is not None and math.isfinite(value)}


class RolloutRun:
    """Finds or makes the run of a rollout by its id, so that a controller that starts again goes on with it."""

    def __init__(self, registry: Tracking, model: str) -> None:
        self._registry, self._model = registry, model
        self._ids: dict[str, str] = {}

    def log(self, rollout: str, tags: Mapping[str, str], rows: Sequence[Row]) -> None:
        """Raises RaymlopsError; rows may then be given again."""
        from mlflow.entities import Metric

        run = self._run(rollout, tags)
        metrics = [Metric(key, value, int(at * 1000), int(at)) for at, row in rows for key, value in row.items()]
        with reported("logging a rollout"):
            for begin in range(0, len(metrics), _BATCH):
                self._registry.client.log_batch(run, metrics=metrics[begin : begin + _BATCH])

    def end(self, rollout: str, tags: Mapping[str, str], end: Mapping[str, Any]) -> None:
        """Close the run: FINISHED after a promotion, FAILED after a rollback, KILLED by order or deadline."""
        run = self._run(rollout, tags)
        promoted, ordered = end["verdict"] == "PROMOTE", end["cause"] in ("order", "deadline")
        status = "FINISHED" if promoted else "KILLED" if ordered else "FAILED"
        with reported("ending the run of a rollout"):
            client = self._registry.client
            for name in ("verdict", "cause", "reason", "blame"):
                if end[name] is not None:
                    client.set_tag(run, f"raymlops.{name}", cut(str(end[name]), _MAX_TAG))
            client.log_text(run, json.dumps(finite(end), indent=1), "rollout.json")
            client.set_terminated(run, status)

    def _run(self, rollout: str, tags: Mapping[str, str]) -> str:
        if rollout not in self._ids:
            self._ids[rollout] = self._find(rollout) or self._make(rollout, tags)
        return self._ids[rollout]

    def _find(self, rollout: str) -> str | None:
        with reported("looking for the run of a rollout"):
            experiment = self._registry.client.get_experiment_by_name(self._model)
            if experiment is None:
                return None
            chosen = f"tags.`{ID_TAG}` = '{rollout}'"
            runs = self._registry.client.search_runs([experiment.experiment_id], chosen, max_results=1)
            return str(runs[0].info.run_id) if runs else None

    def _make(self, rollout: str, tags: Mapping[str, str]) -> str:
        with reported("starting the run of a rollout"):
            client = self._registry.client
            experiment = client.get_experiment_by_name(self._model)
            number = experiment.experiment_id if experiment is not None else client.create_experiment(self._model)
            own = {KIND_TAG: ROLLOUT, NAME_TAG: self._model, ID_TAG: rollout, "mlflow.source.name": "raymlops rollout"}
            run = client.create_run(number, tags={**tags, **own}, run_name=f"rollout {rollout}")
            return str(run.info.run_id)
