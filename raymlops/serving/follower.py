"""A replica's side of the routing document: where it comes from at the start, and how it changes while traffic flows.

A document is followed once its models are here and checked, and its candidates found; until then the one before stays
in force. That may take long, and goes on beside the asking, by which the controller knows that this replica lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

from raymlops.rollout.evidence import EvidenceError
from raymlops.serving.document import RoutingDocument
from raymlops.serving.hosting import Host
from raymlops.serving.router import Router

logger = logging.getLogger("raymlops.serving")
POLL_SECONDS = 4.0
TAKING_SECONDS = 0.2
"""How often the controller is asked while a document is being taken, which it gives again and again until then."""
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
AWAY_SECONDS = 60.0
"""Without a controller for so long, a replica answers with the champion alone: nobody watches the candidates."""


class Controller(Protocol):
    """What a replica asks of the controller; see `raymlops.rollout.controller`."""

    async def document(
        self, facts: dict[str, Any], known: list[int] | None, loaded: list[str], timeout_s: float
    ) -> str | None: ...


class Follower:
    """Follows one endpoint's document. `adopt` makes a document the one in force; its models are loaded by then."""

    def __init__(
        self,
        host: Host,
        facts: dict[str, Any],
        controller: Controller,
        adopt: Callable[[Router], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._facts, self._controller = host, facts, controller
        self._adopt, self._clock = adopt, clock
        self.document: RoutingDocument | None = None
        """The one in force, as the controller wrote it."""
        self._alone = False
        self._heard_at = clock()
        self._changed = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._taking: tuple[RoutingDocument, asyncio.Task[None]] | None = None

    async def run(self, first: RoutingDocument | None = None) -> None:
        """Until cancelled. `first` is taken if the controller has no newer one."""
        if first is not None:
            self._begin(first)
        failures = 0
        while True:
            try:
                text = await self._poll()
                failures, self._heard_at = 0, self._clock()
                if text is not None:
                    self._begin(RoutingDocument.from_json(text))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), TAKING_SECONDS)
            except Exception as error:
                logger.debug("no answer from the rollout controller: %s", error)
                await self._without_controller()
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1

    def _begin(self, document: RoutingDocument) -> None:
        """Take a document beside everything else, in the place of an older one that is being taken."""
        if self._taking is not None and not self._taking[1].done():
            if document.order <= self._taking[0].order:
                return
            self._taking[1].cancel()
        self._taking = document, asyncio.get_running_loop().create_task(self._try(document))

    async def _try(self, document: RoutingDocument) -> None:
        try:
            followed = await self.take(document)
        except Exception as error:
            logger.warning("cannot follow routing document %s: %s", document.order, error)
            followed = False
        if not followed:
            await asyncio.sleep(RETRY_SECONDS[-1])
        self._changed.set()

    async def take(self, document: RoutingDocument) -> bool:
        """Follow a document, if it is newer and its models can be had; returns whether it is followed."""
        if self.document is not None and document.order <= self.document.order and not self._alone:
            return False
        try:
            router = Router(document)
        except EvidenceError as error:
            logger.error("routing document %s is refused: %s", document.order, error)
            return False
        await self._host.hold(router.models)
        if any(self._host.get(model) is None for model in router.models):
            return False
        await self._adopt(router)
        self.document, self._alone = document, False
        self._settle(document, router)
        return True

    def _settle(self, document: RoutingDocument, router: Router) -> None:
        """Load what shall be ready, drop what is not needed any more; beside the traffic."""
        if self._loading is not None:
            self._loading.cancel()

        async def work() -> None:
            await self._host.hold(document.resident)
            self._changed.set()
            await self._host.keep_only([*router.models, *document.resident])
            self._changed.set()

        self._loading = asyncio.get_running_loop().create_task(work())

    async def _poll(self) -> str | None:
        """The next document, None after a while without one or when what is loaded has changed."""
        self._changed.clear()
        known = None if self.document is None or self._alone else list(self.document.order)
        facts = {**self._facts, "failed": dict(self._host.failed)}
        answer = asyncio.ensure_future(self._controller.document(facts, known, self._host.loaded, POLL_SECONDS))
        changed = asyncio.ensure_future(self._changed.wait())
        done, _ = await asyncio.wait((answer, changed), timeout=2 * POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        if answer in done:
            return answer.result()
        answer.cancel()
        if changed in done:
            return None
        raise TimeoutError("the controller does not answer")

    async def _without_controller(self) -> None:
        document = self.document
        away = self._clock() - self._heard_at > AWAY_SECONDS
        if document is None or not away or self._alone or not document.arms:
            return
        if self._taking is not None:
            self._taking[1].cancel()
        logger.error("the rollout controller is away for %.0f s: the champion answers alone", AWAY_SECONDS)
        plain = replace(document, arms=(), shares=(), rollout=None, counted=False, mode="canary")
        await self._adopt(Router(plain))
        self._alone = True
