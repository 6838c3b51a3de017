"""Measures whatever listens on a port, and keeps what it found by contender."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving_lib.checking import check
from benchmarks.serving_lib.load import Load, measure
from benchmarks.serving_lib.models import Models
from benchmarks.serving_lib.protocols import Protocol

CONNECTIONS = (1, 16, 64)
SLICES = 2
"""Measurements at every number of connections per start of a server, in turn."""


@dataclass(frozen=True)
class Plan:
    models: Models
    generator: str
    seconds: float
    """Of one measurement."""
    warm: float
    """Seconds of load that are not measured, before the first."""


@dataclass
class Recorder:
    plan: Plan
    samples: dict[str, dict[int, list[Load]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Answers that were compared with the champion's prediction, or counted by variant."""
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    log_starts: list[list[tuple[float, float]]] = field(default_factory=list)
    """Of every start of a server that logs and does not in turn: requests/s with and without the prediction log."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why a contender has no numbers."""

    def measure(
        self,
        label: str,
        port: int,
        protocol: Protocol,
        memory: Callable[[], float],
        candidate: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Check, warm up, load with every number of connections, check again.

        `candidate` bounds the share of answers that come from a candidate: a split that is not in force would be
        measured as something that it is not. Raises RuntimeError when an answer or the share is wrong.
        """
        self._check(label, port, protocol, candidate)
        order = CONNECTIONS * SLICES
        for connections, load in zip(order, self.loads(label, port, protocol, order), strict=True):
            self.samples[label][connections].append(load)
        self.memory[label].append(memory())
        self._check(label, port, protocol, candidate)

    def loads(self, label: str, port: int, protocol: Protocol, order: Sequence[int]) -> Iterator[Load]:
        """Warm up, then measure once for each number of connections in `order`."""
        bodies = [protocol.encode(row) for row in self.plan.models.rows]
        measure(port, protocol.path, bodies, 16, self.plan.warm, self.plan.generator)
        for connections in order:
            load = measure(port, protocol.path, bodies, connections, self.plan.seconds, self.plan.generator)
            shown = f"{load.rate:,.0f}/s, p50 {load.p50:.2f} ms, {load.errors} errors"
            print(f"... {label}, c = {connections}: {shown}", file=sys.stderr, flush=True)
            yield load

    def _check(self, label: str, port: int, protocol: Protocol, candidate: tuple[float, float]) -> None:
        models = self.plan.models
        found = check(port, protocol, models.rows, models.expected, rounds=4 if candidate[1] else 1)
        self.asked[label] += found.asked
        if found.wrong:
            raise RuntimeError(f"{len(found.wrong)} of {found.asked} answers are wrong; first: {found.wrong[0]}")
        share = sum(n for variant, n in found.variants.items() if variant.startswith("candidate")) / found.asked
        if not candidate[0] <= share <= candidate[1]:
            raise RuntimeError(f"{share:.1%} of answers come from a candidate; expected {candidate[0]}–{candidate[1]}")

    def plain(self) -> dict[str, Any]:
        """Everything measured, as JSON has it."""
        return {
            "samples": {
                label: {str(c): [asdict(load) for load in loads] for c, loads in by.items()}
                for label, by in self.samples.items()
            },
            "asked": dict(self.asked),
            "memory_mib": {label: list(values) for label, values in self.memory.items()},
            "log_starts": [[list(couple) for couple in couples] for couples in self.log_starts],
            "missing": dict(self.missing),
        }


def listed(labels: Sequence[str], missing: dict[str, str]) -> list[list[str]]:
    """Rows of (contender, reason) for those without numbers, in order."""
    return [[label, missing[label]] for label in labels if label in missing]
