"""The way from a replica to an isolated candidate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from raymlops.config.serving import CandidateServing
from raymlops.serving.batching import Columns
from raymlops.serving.dispatch import Breaker, Dispatcher
from raymlops.serving.link import Links, socket_directory
from raymlops.serving.logs import log_event
from raymlops.serving.routing import Remote

logger = logging.getLogger("raymlops.serving")
CONNECT_SECONDS = 5.0


async def connect(app: str, config: CandidateServing) -> Remote:
    """Waits, for a while, until the candidate has answered once, so that its first request does not pay for finding
    it. A candidate that does not answer is asked nevertheless, and has its errors counted."""
    import ray
    from ray import serve

    schema, handle = None, None
    try:
        handle = await asyncio.wait_for(asyncio.to_thread(serve.get_app_handle, app), CONNECT_SECONDS)
        schema = (await asyncio.wait_for(_probe(handle), CONNECT_SECONDS))["schema"]
    except Exception as error:  # whatever Serve or the candidate raised
        logger.warning("candidate %s does not answer: %s", app, error)
    method = None
    if handle is not None:
        method = handle.options(method_name="predict", request_serialization="pickle", response_serialization="pickle")

    links = Links(socket_directory(ray.get_runtime_context().gcs_address, app))
    await links.scan()
    keeper = Context().run(asyncio.get_running_loop().create_task, links.keep())

    async def call(parts: list[tuple[Columns, int]]) -> Sequence[tuple[str, Any, float]]:
        near = links.one()
        if near is not None:
            return await near.call(parts)
        if method is None:
            raise RuntimeError(f"application {app} was not found")
        answer: Sequence[tuple[str, Any, float]] = await method.remote(parts)
        return answer

    def changed(opened: bool) -> None:
        log_event(logging.WARNING, "breaker_opened" if opened else "breaker_closed", application=app)

    dispatcher = Dispatcher(
        call,
        budget_s=config.budget_ms / 1000,
        max_in_flight=config.max_in_flight,
        breaker=Breaker(config.breaker_failures, config.breaker_seconds, changed),
    )
    return Remote(dispatcher, schema, keeper)


async def _probe(handle: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await handle.probe.remote()
    return answer
