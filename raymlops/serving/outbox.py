"""What a replica has to tell the controller, kept until the controller says that it is on disk.

Messages have numbers, go in order and one at a time, and are sent again when a restarted controller asks for them; so
a verdict does not depend on whether the controller died in between.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import orjson

MOST_BYTES = 32 * 1024 * 1024
"""Kept while the controller is away; beyond it the oldest messages are dropped and counted."""


class Outbox:
    """Plain bookkeeping for one event loop; the caller sends and waits."""

    def __init__(self, replica: str, most_bytes: int = MOST_BYTES) -> None:
        self.replica, self._most_bytes = replica, most_bytes
        self._held: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self.next = 1
        """Number of the message that the controller takes next."""
        self.sequence = 0
        """Number of the latest message."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def unsent(self) -> int:
        """Messages that the controller has not taken yet."""
        return self.sequence - self.next + 1

    def add(self, content: dict[str, Any]) -> None:
        """A new message. `content` is encoded now; dataclasses and NumPy values are understood."""
        self.sequence += 1
        body = {"replica": self.replica, "sequence": self.sequence, **content}
        data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        self._held.append((self.sequence, data))
        self._bytes += len(data)
        while self._bytes > self._most_bytes and len(self._held) > 1:
            self._forget()
            self.dropped += 1
        self.next = max(self.next, self._held[0][0])

    def next_message(self) -> bytes | None:
        """What to send now, None when the controller has taken everything."""
        return self._encoded(self.next - self._held[0][0]) if self._held and self.unsent > 0 else None

    def reminder(self) -> bytes | None:
        """The latest message once more, whose answer says what is durable meanwhile; None when nothing is held."""
        return self._encoded(-1) if self._held else None

    def answered(self, durable: int, expected: int) -> None:
        """The controller's answer: what need not be kept, and the number that it takes next."""
        while self._held and self._held[0][0] <= durable:
            self._forget()
        first = self._held[0][0] if self._held else self.sequence + 1
        self.next = min(max(expected, first), self.sequence + 1)

    def _encoded(self, at: int) -> bytes:
        return b'{"held_from":%d,' % self._held[0][0] + self._held[at][1][1:]

    def _forget(self) -> None:
        _, data = self._held.popleft()
        self._bytes -= len(data)
