"""The ways from a replica to an isolated candidate: a socket where it runs on this machine, else Serve's handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raymlops.config.serving import CandidateServing
from raymlops.serving.batching import Columns
from raymlops.serving.dispatch import Breaker, Dispatcher
from raymlops.serving.link import Links, socket_directory
from raymlops.serving.logs import log_event
from raymlops.serving.protocol import ModelSchema
from raymlops.serving.routing import Remote

logger = logging.getLogger("raymlops.serving")
PROBE_SECONDS = 5.0
"""After so long without an answer a candidate is asked nevertheless, and has its timeouts counted."""
SERVE_SECONDS = 2.0
"""After so long without an answer Serve's controller is away."""
RETRY_SECONDS = 0.5


class Isolated(Remote):
    """One candidate, looked for until `close`. Belongs to the event loop that it was made on.

    `look_up` gives Serve's handle of an application. It blocks or raises while Serve's controller is away.
    """

    def __init__(self, app: str, config: CandidateServing, cluster: str, look_up: Callable[[str], Any]) -> None:
        breaker = Breaker(config.breaker_failures, config.breaker_seconds, self._told)
        super().__init__(
            Dispatcher(
                self._call, budget_s=config.budget_ms / 1000, max_in_flight=config.max_in_flight, breaker=breaker
            )
        )
        self._app, self._look_up = app, look_up
        self._known = asyncio.Event()
        self._method: Any = None
        self._links = Links(socket_directory(cluster, app), self._says)
        # Of its own: others must not wait for a thread because Serve's controller is away.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="serve")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._links.keep()), loop.create_task(self._find())]

    async def known(self) -> None:
        """Waits until the candidate has answered once, so that its first request does not pay for finding it; or
        until it is known to be its own fault that it does not."""
        await self._known.wait()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False)

    def _says(self, schema: ModelSchema | None) -> None:
        self.schema = schema
        self._known.set()

    def _told(self, opened: bool) -> None:
        log_event(logging.WARNING, "breaker_opened" if opened else "breaker_closed", application=self._app)

    async def _find(self) -> None:
        """A candidate that does not answer is to blame only if Serve's controller is there, before and after: without
        it a handle does not learn where replicas run."""
        while True:
            handle = await self._handle()
            if handle is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            options = {"request_serialization": "pickle", "response_serialization": "pickle"}
            self._method = handle.options(method_name="predict", **options)
            try:
                self._says((await asyncio.wait_for(_probe(handle), PROBE_SECONDS))["schema"])
                return
            except Exception as error:  # whatever Serve or the candidate raised
                logger.warning("candidate %s does not answer: %s: %s", self._app, type(error).__name__, error)
            if await self._handle(SERVE_SECONDS) is not None:
                self._known.set()
                return

    async def _handle(self, seconds: float | None = None) -> Any | None:
        """None when Serve's controller does not answer, or does not know the application."""
        looking = asyncio.get_running_loop().run_in_executor(self._thread, self._look_up, self._app)
        try:
            return await asyncio.wait_for(looking, seconds)
        except Exception as error:
            logger.info("no handle of candidate %s: %s: %s", self._app, type(error).__name__, error)
            return None

    async def _call(self, parts: list[tuple[Columns, int]]) -> Sequence[tuple[str, Any, float]]:
        near = self._links.one()
        if near is not None:
            return await near.call(parts)
        if self._method is None:
            raise RuntimeError(f"application {self._app} is not there")
        answer: Sequence[tuple[str, Any, float]] = await self._method.remote(parts)
        return answer


async def _probe(handle: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await handle.probe.remote()
    return answer
