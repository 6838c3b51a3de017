"""A rollout in Prometheus: its evidence against what decides it, its phase, and how rollouts ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, get_args

from raymlops.rollout.conductor import Conductor
from raymlops.rollout.evidence import Verdict
from raymlops.rollout.steering import Steering
from raymlops.rollout.trial import Phase, Rollout
from raymlops.serving.metrics import OF_ROLLOUTS, Instruments

log = logging.getLogger(__name__)
SECONDS = 1.0
NO_ROLLOUT = "none"
PHASES: tuple[str, ...] = (NO_ROLLOUT, *get_args(Phase))
ENDS = (Verdict.PROMOTE, Verdict.ROLLBACK, Verdict.EXPIRED)
Series = tuple[str, str, str, str]
"""Variant, version, metric, side."""


class RolloutGauges:
    """What the controller hands to Ray's metrics. Made in a process that is connected to Ray."""

    def __init__(self, endpoint: str, backend: Any = None) -> None:
        self._to = Instruments(endpoint, OF_ROLLOUTS, backend)
        self._shown: set[Series] = set()

    def show(self, conductor: Conductor | None) -> None:
        """The present state; None when another controller is in charge. Takes well below 1 ms."""
        rollout = None if conductor is None else conductor.rollout
        evidence = {} if rollout is None else dict(self._evidence(rollout))
        for variant, version, metric, side in self._shown | evidence.keys():
            # Evidence of no rollout falls to 0, which says nothing either way: Ray cannot take a series back.
            value = evidence.get((variant, version, metric, side), 0.0)
            self._to.level("evidence_log_e", value, variant=variant, version=version, metric=metric, side=side)
        self._shown = set(evidence)
        phase = NO_ROLLOUT if rollout is None else rollout.phase
        for name in PHASES:
            self._to.level("rollout_phase", conductor is not None and name == phase, phase=name)
        if conductor is not None:
            for verdict in ENDS:
                self._to.level("rollouts_ended", conductor.ended.get(verdict, 0), verdict=verdict.lower())

    def _evidence(self, rollout: Rollout) -> Iterator[tuple[Series, float]]:
        course = rollout.course
        finding = None if course is None else course.finding
        if finding is None:
            return
        self._to.level("evidence_threshold", finding.rollback_log_threshold, side="rollback")
        self._to.level("evidence_threshold", finding.promotion_log_threshold, side="promotion")
        for candidate in finding.candidates:
            arm = _arm(rollout, candidate.candidate)
            for metric in candidate.metrics:
                yield (*arm, metric.metric, "rollback"), metric.log_e_rollback
                yield (*arm, metric.metric, "promotion"), metric.log_e_promotion


def _arm(rollout: Rollout, candidate: int) -> tuple[str, str]:
    """Variant and version, as the replicas call them in their metrics."""
    if rollout.phase == "baking":
        return "champion", rollout.promoted_model.version
    return f"candidate-{candidate}", rollout.candidates[candidate - 1].model.version


async def export(steering: Steering) -> None:
    """Shows the state once a second until cancelled. Beside the ticks, and whatever fails here stays here."""
    gauges: RolloutGauges | None = None
    failed = False
    while True:
        try:
            if gauges is None:
                gauges = RolloutGauges(steering.settings.name)
            if steering.phase != "recovering":
                gauges.show(steering.conductor if steering.phase == "active" else None)
            failed = False
        except Exception as error:  # metrics are not worth a rollout
            if not failed:
                log.warning("cannot export metrics: %s: %s", type(error).__name__, error)
            failed = True
        await asyncio.sleep(SECONDS)
