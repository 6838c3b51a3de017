"""Short work that a background thread has done by the thread of an event loop.

Two threads that run Python take the interpreter from each other wherever a library lets go of it, and each time the
other one has to be woken. A few milliseconds of such work cost a busy loop less in one piece, in its own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import TypeVar

PATIENCE_S = 0.2
T = TypeVar("T")


class LoopRunner:
    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float = PATIENCE_S) -> None:
        self._loop, self._patience_s = loop, patience_s

    def __call__(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. It runs in this thread after all when the loop has ended, or does not come to
        it within `patience_s` seconds. Not to be called in the loop's thread."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # whoever waits must not wait for ever
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run, context=Context())
        except RuntimeError:  # the loop is closed
            return work()
        try:
            return future.result(self._patience_s)
        except TimeoutError:
            return work() if future.cancel() else future.result()
