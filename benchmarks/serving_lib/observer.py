"""Steady traffic that remembers when which variant answered: what a user of the endpoint sees of a rollout."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

from benchmarks.serving_lib.clients import Clients, Post

THREADS = 8


class Observer(Clients):
    """Sends `rate` requests a second from a few threads."""

    def __init__(self, port: int, path: str, bodies: Sequence[bytes], rate: float) -> None:
        super().__init__(port, THREADS)
        self._path, self._bodies, self._pause = path, bodies, THREADS / rate
        self.candidates: list[float] = []
        """When an answer by a candidate was complete, seconds since 1970; in no particular order."""
        self.answers = 0
        self.failed: list[str] = []
        self._last: deque[bool] = deque(maxlen=40)

    def share(self) -> float:
        """Share of the last answers that a candidate gave."""
        return sum(self._last) / len(self._last) if self._last else 0.0

    def plan(self, number: int, post: Post) -> Iterator[float]:
        turn, due = number, time.monotonic() + number * self._pause / THREADS
        while True:
            yield max(0.0, due - time.monotonic())
            due = max(due + self._pause, time.monotonic())
            reply = post(self._path, self._bodies[turn % len(self._bodies)])
            turn += THREADS + 1
            if reply.status == 0:
                self.failed.append(reply.error)
                continue
            self.answers += 1
            if reply.status != 200:
                self.failed.append(f"status {reply.status}")
            else:
                self._note(reply.variant.startswith("candidate"))

    def _note(self, candidate: bool) -> None:
        self._last.append(candidate)
        if candidate:
            self.candidates.append(time.time())
