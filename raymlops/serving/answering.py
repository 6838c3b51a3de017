"""From a checked request to an answer: who is asked, who answers when that fails, and what is noted about it.

A request whose candidate fails, is late or is gone is answered by the champion, and stays with its candidate in every
account.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymlops.errors import DataError, RaymlopsError
from raymlops.rollout.evidence import unit_hash
from raymlops.rollout.evidence.reporter import Routed
from raymlops.serving.accounts import Accounts
from raymlops.serving.batching import Answer, Scored
from raymlops.serving.dispatch import Missed
from raymlops.serving.logs import MOST_ERROR, log_event
from raymlops.serving.prediction_log import PredictionLog
from raymlops.serving.protocol import ParsedRequest
from raymlops.serving.routing import ArmRoute, Routing


class ModelFailed(RaymlopsError):
    """The champion itself failed: there is nobody left to answer."""


@dataclass(slots=True)
class Answered:
    """An answer, and who gave it."""

    answer: Answer
    version: str
    variant: str
    prediction_id: str


@dataclass(slots=True)
class Course:
    """What became of a request so far."""

    arm: int
    prediction_id: str
    started: float
    event: str | None = None
    """What went wrong in its arm: `errors` or `timeouts`."""
    why: str = ""
    seconds: float = 0.0
    """What its arm's model took."""
    version: str = ""
    """Who answered."""
    variant: str = ""


class Answerer:
    """Answers requests under a `Routing`. Belongs to one event loop; nothing here waits for anything but models."""

    def __init__(
        self,
        endpoint: str,
        accounts: Accounts,
        log: PredictionLog | None,
        budget_s: float,
        mirror: Callable[[Routing, ParsedRequest, Answered], None],
        log_requests: bool = False,
    ) -> None:
        self._endpoint, self._accounts, self._log, self._budget_s = endpoint, accounts, log, budget_s
        self._mirror, self._log_requests = mirror, log_requests
        self._ids, self._number = uuid.uuid4().hex[:20], 0

    async def answer(self, routing: Routing, request: ParsedRequest, forced: int | None = None) -> Answered:
        """Raises DataError when the champion cannot read the rows, ModelFailed when it fails on them."""
        now, document = time.time(), routing.document
        self._number += 1
        if forced is None:
            stamp = routing.router.route(request.key)
            course = Course(stamp.arm, f"{self._ids}{self._number:08x}", time.perf_counter())
            routed = self._accounts.routed(document, stamp, now)
        else:
            course = Course(forced, f"{self._ids}{self._number:08x}", time.perf_counter())
            routed = None
        found: Scored | None = None
        try:
            found = await self._ask(routing, request, course)
        except (asyncio.CancelledError, TimeoutError):
            if course.event is None and time.perf_counter() - course.started > self._budget_s:
                course.event = "timeouts"
            raise
        except ModelFailed as error:
            course.event, course.why = "errors", str(error)
            raise
        finally:
            self._note(routing, request, course, routed, forced is not None, found, now)
        answered = Answered(found.answer, course.version, course.variant, course.prediction_id)
        if document.mode == "shadow" and len(routing.arms) > 1 and forced is None:
            self._mirror(routing, request, answered)
        return answered

    async def _ask(self, routing: Routing, request: ParsedRequest, course: Course) -> Scored:
        arm = routing.arms[course.arm]
        if arm.model == routing.document.champion:
            found = await self._champion(routing, request, course)
            course.seconds = found.seconds
            if time.perf_counter() - course.started > self._budget_s:
                course.event = "timeouts"
            return found
        try:
            scored = await self._candidate(arm, request)
        except Missed as missed:
            course.event, course.why = missed.event, str(missed)
        except Exception as error:  # whatever the model raised, rows that it cannot read among it: the champion may
            course.event, course.why = "errors", f"{type(error).__name__}: {error}"
        else:
            course.seconds, course.version, course.variant = scored.seconds, arm.model.version, arm.variant
            if time.perf_counter() - course.started > self._budget_s:
                course.event = "timeouts"
            return scored
        try:
            return await self._champion(routing, request, course)
        except DataError:
            course.event = None  # nobody can read these rows: the request is wrong, not the candidate
            raise

    async def _candidate(self, arm: ArmRoute, request: ParsedRequest) -> Scored:
        if arm.hosted is None:
            if arm.remote is None:
                raise Missed("errors", "the candidate is not there")
            return await arm.remote.dispatcher.ask(request.columns, request.rows)
        try:
            async with asyncio.timeout(self._budget_s):
                return await arm.hosted.batcher.submit(request.columns, request.rows)
        except TimeoutError:
            raise Missed("timeouts", "the model took longer than the budget") from None

    async def _champion(self, routing: Routing, request: ParsedRequest, course: Course) -> Scored:
        course.version, course.variant = routing.document.champion.version, "champion"
        try:
            return await routing.champion.batcher.submit(request.columns, request.rows)
        except DataError:
            raise
        except Exception as error:
            raise ModelFailed(f"the model failed: {type(error).__name__}: {error}") from error

    def _note(
        self,
        routing: Routing,
        request: ParsedRequest,
        course: Course,
        routed: Routed | None,
        forced: bool,
        found: Scored | None,
        now: float,
    ) -> None:
        latency = time.perf_counter() - course.started
        arm, event, document = routing.arms[course.arm], course.event, routing.document
        counts = arm.counts
        counts.observe(latency)
        if event is not None:
            setattr(counts, event, getattr(counts, event) + 1)
            if found is not None and course.version != arm.model.version:
                counts.fallbacks += 1
            _tell(course, arm, found, latency)
        if not forced:
            self._accounts.finished(document, course.arm, routed, event, course.seconds)
            if routed is not None and found is not None:
                self._accounts.predicted(document, routed, course.prediction_id, _first(found.answer))
        if self._log is not None:
            key_hash = None if request.key is None else unit_hash(self._endpoint, request.key)
            status = _status(event, found, course.version != arm.model.version)
            answer, _, batch, at = found or (None, 0.0, None, 0)
            self._log.append(
                now,
                course.prediction_id,
                course.version,
                arm.variant,
                arm.weight,
                key_hash,
                request.columns,
                answer,
                request.rows,
                latency,
                status,
                request.size,
                batch,
                at,
            )
        if self._log_requests:
            line = {**_who(course, arm, latency), "answered_by": course.variant, "rows": request.rows}
            fell_back = course.version != arm.model.version
            log_event(logging.INFO, "request", every=True, **line, status=_status(event, found, fell_back))


def _tell(course: Course, arm: ArmRoute, found: Scored | None, latency: float) -> None:
    """The line of a request that went wrong."""
    level, event = logging.WARNING, "late" if course.version == arm.model.version else "fallback"
    if found is None:
        level, event = logging.ERROR, "failed"
    log_event(level, event, **_who(course, arm, latency), reason=course.event, error=course.why[:MOST_ERROR])


def _who(course: Course, arm: ArmRoute, latency: float) -> dict[str, Any]:
    ms = round(latency * 1000, 3)
    return {"prediction_id": course.prediction_id, "variant": arm.variant, "version": arm.model.version, "ms": ms}


def _status(event: str | None, found: Scored | None, fell_back: bool) -> str:
    if found is not None:
        return "fallback" if fell_back else "ok"
    return {"errors": "error", "timeouts": "timeout", None: "refused"}[event]


def _first(answer: Answer) -> Any:
    value = answer["prediction"][0]
    return value if isinstance(value, str) else float(value)
