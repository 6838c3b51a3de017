"""Steady traffic that remembers when which variant answered: what a user of the endpoint sees of a rollout."""

from __future__ import annotations

import http.client
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from benchmarks.serving_lib.checking import VARIANT

THREADS = 8


class Observer:
    """Sends `rate` requests a second from a few threads, each with its own connection. Use as a context manager."""

    def __init__(self, port: int, path: str, bodies: Sequence[bytes], rate: float) -> None:
        self._port, self._path, self._bodies, self._pause = port, path, bodies, THREADS / rate
        self.candidates: list[float] = []
        """When an answer by a candidate was complete, seconds since 1970; in no particular order."""
        self.answers = 0
        self.failed: list[str] = []
        self._last: deque[bool] = deque(maxlen=40)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def share(self) -> float:
        """Share of the last answers that a candidate gave."""
        return sum(self._last) / len(self._last) if self._last else 0.0

    def _send(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
        turn, due = number, time.monotonic() + number * self._pause / THREADS
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic())
            body = self._bodies[turn % len(self._bodies)]
            turn += THREADS + 1
            try:
                connection.request("POST", self._path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                connection.close()
                continue
            self.answers += 1
            if response.status != 200:
                self.failed.append(f"status {response.status}")
            else:
                self._note((response.getheader(VARIANT) or "").startswith("candidate"))
        connection.close()

    def _note(self, candidate: bool) -> None:
        self._last.append(candidate)
        if candidate:
            self.candidates.append(time.time())
