"""Peak memory of this process and everything it started, sampled in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

INTERVAL = 0.1
"""Seconds between samples."""


@dataclass
class Peaks:
    """Bytes. `private` sums, over all processes, resident memory that no other process shares."""

    private: int = 0
    driver: int = 0
    """Private memory of the measuring process alone."""
    object_store: int = 0
    """Pages of Ray's shared object store that were ever written: resident shared memory of the raylet."""
    processes: int = 0

    def see(self) -> None:
        me = psutil.Process()
        total = 0
        processes = [me, *me.children(recursive=True)]
        for process in processes:
            try:
                info = process.memory_info()
                name = process.name()
            except psutil.Error:  # gone since it was listed
                continue
            own = info.rss - info.shared
            total += own
            if process == me:
                self.driver = max(self.driver, own)
            elif name == "raylet":
                self.object_store = max(self.object_store, info.shared)
        self.private = max(self.private, total)
        self.processes = max(self.processes, len(processes))

    def to_dict(self) -> dict[str, int]:
        return dict(vars(self))


@contextmanager
def watched() -> Iterator[Peaks]:
    """Peaks from here to the end of the block."""
    peaks, stop = Peaks(), threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            peaks.see()

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
        peaks.see()
