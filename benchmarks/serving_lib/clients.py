"""Threads with a connection each, whose requests follow a plan until the block ends."""

from __future__ import annotations

import http.client
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

from benchmarks.serving_lib.checking import VARIANT


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    """0: there was none."""
    body: bytes = b""
    variant: str = ""
    error: str = ""
    """Why there was none."""


Post = Callable[[str, bytes], Reply]
"""Path and JSON → what came back."""


class Clients(ABC):
    """Use as a context manager."""

    def __init__(self, port: int, threads: int) -> None:
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]

    @abstractmethod
    def plan(self, number: int, post: Post) -> Iterator[float]:
        """What the thread with this number does: sends requests, and gives the seconds to wait in between."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
        for pause in self.plan(number, partial(_post, connection)):
            if self._stop.wait(pause):
                break
        connection.close()


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> Reply:
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Reply(response.status, response.read(), response.getheader(VARIANT) or "")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Reply(0, error=f"{type(error).__name__}: {error}")
