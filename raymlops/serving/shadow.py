"""Shadow mode: candidates get copies of requests after the user has the answer, and nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from contextvars import Context
from typing import Any

import numpy as np

from raymlops.serving.accounts import Accounts
from raymlops.serving.answering import Answered
from raymlops.serving.batching import Answer, Scored
from raymlops.serving.dispatch import Missed
from raymlops.serving.logs import MOST_ERROR, log_event
from raymlops.serving.prediction_log import PredictionLog
from raymlops.serving.protocol import ParsedRequest
from raymlops.serving.routing import ArmRoute, Routing

SAME = 1e-6
"""Relative to the larger of 1 and the champion's answer: numbers that differ by less agree."""


class Mirror:
    """Sends copies, at most `most` at a time; what is beyond that is not mirrored and counted in `skipped`."""

    def __init__(self, accounts: Accounts, log: PredictionLog | None, budget_s: float, most: int) -> None:
        self._accounts, self._log, self._budget_s, self._most = accounts, log, budget_s, most
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self.skipped = 0

    def __call__(self, routing: Routing, request: ParsedRequest, answered: Answered) -> None:
        if random.random() >= routing.document.sample:
            return
        for number, arm in enumerate(routing.arms[1:], start=1):
            if self._under_way >= self._most:
                self.skipped += 1
                continue
            self._under_way += 1
            work = self._copy(routing, number, arm, request, answered)
            # A context of its own: the request that it copies may end first.
            task = Context().run(asyncio.get_running_loop().create_task, work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self, routing: Routing, number: int, arm: ArmRoute, request: ParsedRequest, answered: Answered
    ) -> None:
        started, event, why, found = time.perf_counter(), None, "", None
        try:
            found = await self._ask(arm, request)
        except Missed as missed:
            event, why = missed.event, str(missed)
        except Exception as error:  # whatever the candidate raised
            event, why = "errors", f"{type(error).__name__}: {error}"
        finally:
            self._under_way -= 1
        compared = (0, 0, 0.0) if found is None else compare(answered.answer, found.answer)
        seconds = 0.0 if found is None else found.seconds
        self._accounts.shadowed(routing.document, number, event, seconds, compared)
        arm.counts.observe(time.perf_counter() - started)
        if event is not None:
            setattr(arm.counts, event, getattr(arm.counts, event) + 1)
            who: dict[str, Any] = {
                "prediction_id": answered.prediction_id,
                "variant": arm.variant,
                "version": arm.model.version,
            }
            log_event(logging.WARNING, "copy_failed", **who, reason=event, error=why[:MOST_ERROR])
        if self._log is not None and found is not None:
            self._log.append(
                time.time(),
                answered.prediction_id,
                arm.model.version,
                arm.variant,
                0.0,
                None,
                request.columns,
                found.answer,
                request.rows,
                time.perf_counter() - started,
                "shadow",
                request.size,
            )

    async def _ask(self, arm: ArmRoute, request: ParsedRequest) -> Scored:
        if arm.remote is not None:
            return await arm.remote.dispatcher.ask(request.columns, request.rows)
        if arm.hosted is None:
            raise Missed("errors", "the candidate is not there")
        return await asyncio.wait_for(arm.hosted.batcher.submit(request.columns, request.rows), self._budget_s)


def compare(champion: Answer, candidate: Answer) -> tuple[int, int, float]:
    """Rows compared, rows that differ, and the sum of absolute differences (0 for classes)."""
    ours, theirs = champion["prediction"], candidate["prediction"]
    if ours.dtype.kind != "f" or theirs.dtype.kind != "f":
        return len(ours), sum(str(a) != str(b) for a, b in zip(ours, theirs, strict=True)), 0.0
    difference = np.abs(ours - theirs)
    total = float(difference.sum())
    differing = int((difference > SAME * np.maximum(1.0, np.abs(ours))).sum())
    return len(ours), differing, total if math.isfinite(total) else 0.0
