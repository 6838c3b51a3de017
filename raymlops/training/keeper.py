"""Writes states of a training beside it: the training waits for a copy in memory, never for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import torch

from raymlops.config.training import CheckpointConfig
from raymlops.store import Store
from raymlops.training.state import Progress, numbers, remove_state, write_state

log = logging.getLogger(__name__)


@dataclass
class StateWriter:
    """Keeps the last `config.keep` states of the training at `path`. At most one is being written, by one thread, from
    one set of buffers: a disk that is too slow makes states rarer, it fills no memory. Used as a context manager, which
    waits at its end for the write under way, so that a training that fails leaves its last state."""

    store: Store
    path: str
    identity: str
    config: CheckpointConfig
    written: int = 0
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _taken: float = field(default_factory=time.monotonic)
    _writing: float = 0.0

    def due(self) -> bool:
        """Whether it is time for the next state and the one before is on the disk.

        What a kill costs is the time since the newest state that is *written*, so the time that the last write took
        is taken off the interval; never more than half of it, or a slow disk would make states the main work.
        """
        every = self.config.every.total_seconds()
        elapsed = time.monotonic() - self._taken
        return elapsed >= max(every / 2, every - self._writing) and not self._busy()

    def save(
        self, number: int, tensors: Mapping[str, torch.Tensor], progress: Progress, scaler: Mapping[str, Any]
    ) -> None:
        """Copy and return; the copy is written meanwhile. Called when `due`."""
        self._taken = time.monotonic()
        for name, tensor in tensors.items():
            if name not in self._buffers:
                pinned = tensor.device.type == "cuda"
                self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[name].copy_(tensor.detach())
        facts = asdict(progress), dict(scaler)
        self._thread = threading.Thread(target=self._write, args=(number, *facts), name="state-writer", daemon=True)
        self._thread.start()

    def _write(self, number: int, progress: dict[str, Any], scaler: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            write_state(self.store, self.path, number, self.identity, self._buffers, progress, scaler)
            for old in numbers(self.store, self.path)[: -self.config.keep]:
                remove_state(self.store, self.path, old)
            self.written += 1
        except Exception as error:  # a training without states is worth more than none
            log.warning("the state of %s could not be stored, training goes on: %s", self.path, error)
        self._writing = time.monotonic() - began

    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.join()
