"""The loss of the Ray that this process started: noticed at once and told, so that what was done can be gone on with.

Ray itself waits a minute for a server that does not answer and then ends the process, without a word of why.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from raymlops.errors import RaymlopsError
from raymlops.last_words import last_words

SERVERS = ("gcs_server", "raylet")
"""Processes that a local Ray cannot do without."""
LOOK_SECONDS = 0.5
GOODBYE_SECONDS = 15.0
"""For closing the run and for Ray's own goodbye to servers that are gone, which takes 3 to 8."""


class RayLost(RaymlopsError):
    """The local Ray has ended while it was needed."""


class RayGone(KeyboardInterrupt):
    """Interrupts what waits for Ray; what goes on with its work after an Exception does not after this."""


def servers() -> list[psutil.Process]:
    """Of the Ray that this process has started, as far as they live."""
    return [child for child in psutil.Process().children() if _alive(child) and child.name() in SERVERS]


class Guard:
    """Watches processes that the work cannot do without."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._watched = {process: process.name() for process in processes}
        self._gone: str | None = None
        self._lock = threading.RLock()  # a look under way must not see what ends after `release`
        self._over = threading.Event()

    def lost(self) -> bool:
        """Whether one of them has ended before `release`."""
        with self._lock:
            if self._gone is None:
                self._gone = next((name for process, name in self._watched.items() if not _alive(process)), None)
            return self._gone is not None

    def release(self) -> None:
        """From now on they may end."""
        with self._lock:
            self.lost()
            self._watched = {}

    def error(self) -> RayLost:
        return RayLost(
            f"the local Ray was lost: its {self._gone} has ended, killed or out of memory; the same command goes on "
            "with what is left to do"
        )

    def watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if not self.lost():
                continue
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if not self._over.wait(GOODBYE_SECONDS):
                # The main thread is in a call into Ray that no signal ends. Nothing is lost by leaving like this: what
                # is stored is enough to go on from, wherever a process was killed.
                last_words(self.error())
                os._exit(RayLost.exit_code)
            return

    def end(self) -> None:
        self._over.set()


@contextmanager
def guarded(processes: Sequence[psutil.Process]) -> Iterator[Guard]:
    """Interrupts the main thread when one of `processes` has ended, and ends the process if that does not help.

    Raises RayLost for whatever exception comes of it. SIGUSR1 is what interrupts, since only a signal ends a wait;
    where this is called in another thread, which cannot set its handler, nothing is interrupted.
    """
    guard = Guard(processes)
    watcher = threading.Thread(target=guard.watch, name="ray-watch", daemon=True)
    with _handled() as interrupts:
        if interrupts:
            watcher.start()
        try:
            yield guard
        except BaseException as error:
            if guard.lost():
                raise guard.error() from error
            raise
        finally:
            guard.end()
            if interrupts:
                watcher.join()


@contextmanager
def _handled() -> Iterator[bool]:
    """SIGUSR1 raises RayGone meanwhile. Yields whether it does."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise RayGone("the local Ray was lost")

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield True
    finally:
        signal.signal(signal.SIGUSR1, before)


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
