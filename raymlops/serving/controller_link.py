"""Calls of a replica to the rollout controller, which may be restarting, missing, or on its way."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from raymlops.serving.document import NAMESPACE, RoutingDocument, controller_name

logger = logging.getLogger("raymlops.serving")
FIRST_SECONDS = 5.0


class ControllerLink:
    """Finds the controller when it is needed, and makes a new one when there is none."""

    def __init__(self, endpoint: str, config_json: str) -> None:
        self._endpoint, self._config_json = endpoint, config_json
        self._handle: Any = None
        self._finding = asyncio.Lock()

    def first_document(self, facts: dict[str, Any]) -> RoutingDocument | None:
        """What the controller says at the start of a replica; None when it is not there. Blocks, for a while."""
        import ray

        try:
            self._handle = ray.get_actor(controller_name(self._endpoint), namespace=NAMESPACE)
            text = ray.get(self._handle.document.remote(facts, None, [], 0.0), timeout=FIRST_SECONDS)
        except (ValueError, ray.exceptions.RayError, TimeoutError) as error:
            logger.info("no routing document from the controller at the start: %s", error)
            return None
        return RoutingDocument.from_json(text) if text is not None else None

    async def document(
        self, facts: dict[str, Any], known: list[int] | None, loaded: list[str], timeout_s: float
    ) -> str | None:
        handle = await self._found()
        try:
            answer: str | None = await handle.document.remote(facts, known, loaded, timeout_s)
        except Exception:
            self._handle = None
            raise
        return answer

    async def report(self, payload: bytes) -> dict[str, Any]:
        handle = await self._found()
        try:
            answer: dict[str, Any] = await handle.report.remote(payload)
        except Exception:
            self._handle = None
            raise
        return answer

    async def _found(self) -> Any:
        async with self._finding:
            if self._handle is None:
                from raymlops.rollout.controller import ensure_controller

                self._handle = await asyncio.to_thread(ensure_controller, self._config_json)
            return self._handle
