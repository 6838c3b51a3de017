"""The steps of a job: how long each took, told to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raymlops.retraining.watch import Watch


@dataclass
class Steps:
    """Times the steps and tells the watcher where the job is."""

    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[Callable[[], float]]:
        """Gives a function that tells how many seconds the step has taken so far."""
        self.watch.step_started(name, what)
        began = time.perf_counter()
        try:
            yield lambda: round(time.perf_counter() - began, 3)
        except BaseException:
            self.watch.step_failed(name)
            raise
        self.seconds[name] = round(time.perf_counter() - began, 3)
        self.watch.step_done(name, self.seconds[name])

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self.started, 3)}
