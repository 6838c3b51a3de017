"""Which process does a piece of work, and whether it still lives.

It keeps a second process from taking over while the first one works: on the same machine the process is looked up, on
another one its last sign of life, written every few seconds, must be old.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from raymlops.store import Store, StoreError

BEAT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""After so long without a sign of it, a process on another machine counts as dead."""


def this_process() -> dict[str, Any]:
    """Identity that no other process has, ever; and the time on this machine's clock."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": round(psutil.Process().create_time(), 2),
        "wall": time.time(),
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("host", "pid", "started"))


def alive(store: Store, root: str, owner: Mapping[str, Any]) -> bool:
    """Whether the process that took the work over still does it, as far as can be known from here."""
    if owner["host"] == socket.gethostname():
        try:
            process = psutil.Process(owner["pid"])
            # A killed process whose parent does not ask what became of it stays in the table for ever.
            dead = process.status() == psutil.STATUS_ZOMBIE
            return not dead and bool(abs(process.create_time() - owner["started"]) < 1.0)
        except psutil.Error:
            return False
    last = float(owner["wall"])
    if store.exists(f"{root}/beat.json"):
        with suppress(ValueError):  # half of it is what a power cut leaves
            beat = json.loads(store.read(f"{root}/beat.json"))
            last = max(last, float(beat["wall"])) if same(beat, owner) else last
    return time.time() - last < SILENCE_SECONDS


@contextmanager
def beating(store: Store, root: str) -> Iterator[None]:
    """Signs of life while the block runs."""
    end = threading.Event()

    def beat() -> None:
        while not end.is_set():
            # The next one may arrive; without any, another process goes on instead, and the ledger decides.
            with suppress(StoreError):
                store.write(f"{root}/beat.json", json.dumps(this_process()).encode(), sync=False)
            end.wait(BEAT_SECONDS)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
