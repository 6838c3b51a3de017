"""Brings what a replica counted to the controller: often, in order, and until it is on disk there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from raymlops.serving.accounts import Accounts
from raymlops.serving.outbox import Outbox

logger = logging.getLogger("raymlops.serving")
Send = Callable[[bytes], Awaitable[dict[str, Any]]]

EVERY_SECONDS = 0.05
IDLE_SECONDS = 1.0
"""Between messages when no rollout waits for them, and between reminders of what is not durable yet."""
BEHIND = 4
"""Messages not taken beyond which new ones are made once a second only: the controller is away."""


class ReplicaReporter:
    """One task on the event loop. `send` reaches the controller, or raises; then it is tried again later."""

    def __init__(self, accounts: Accounts, outbox: Outbox, send: Send) -> None:
        self.accounts, self.outbox, self._send = accounts, outbox, send
        self._collected_at = self._asked_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                self.collect(time.time())
                await self.deliver()
            except Exception as error:  # the controller is restarting or gone; everything is kept
                logger.debug("cannot report: %s", error)
                await asyncio.sleep(IDLE_SECONDS)

    def collect(self, now: float) -> None:
        """A message of what is new, if it is time for one."""
        hurry = self.accounts.urgent and self.outbox.unsent < BEHIND
        if hurry or now - self._collected_at >= IDLE_SECONDS:
            self.add(self.accounts.take(now))
            self._collected_at = now

    def add(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["report"] is not None:
            head = {"replica": self.outbox.replica, "sequence": self.outbox.sequence + 1}
            message = {**message, "report": {**head, **message["report"]}}
        self.outbox.add(message)

    async def deliver(self) -> None:
        while (data := self.outbox.next_message()) is not None:
            if not await self._exchange(data):
                return
        if len(self.outbox) and time.monotonic() - self._asked_at >= IDLE_SECONDS:
            reminder = self.outbox.reminder()
            assert reminder is not None
            await self._exchange(reminder)

    async def _exchange(self, data: bytes) -> bool:
        """Whether the controller takes messages now."""
        reply = await self._send(data)
        self._asked_at = time.monotonic()
        expected = reply["next"]
        ready = expected is not None
        self.outbox.answered(reply["durable"], expected if ready else self.outbox.next)
        if not ready:
            await asyncio.sleep(IDLE_SECONDS)
        return ready
