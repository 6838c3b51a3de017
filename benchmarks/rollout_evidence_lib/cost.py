"""Part 4: what the evidence costs, in CPU time of this process: 5 metrics × 3 candidates, every key distinct."""

from __future__ import annotations

import json
import time

from raymlops.rollout.evidence import Event, EvidenceConfig, FirstRequest, RateMetric, Report, RolloutEvidence

REPORT = 100
"""Facts in one report."""


def cost(keys: int) -> dict[str, float]:
    """Microseconds per fact, milliseconds per tick, and bytes of state."""
    evidence = RolloutEvidence(EvidenceConfig(tuple(RateMetric(f"m{i}") for i in range(5)), candidates=3))
    evidence.open_block((0.1, 0.1, 0.1), salt="cost")
    stamps = [evidence.assignment.route(f"key-{i}") for i in range(keys)]
    firsts = [FirstRequest(s.epoch, s.arm, s.key, 60.0 * i / keys) for i, s in enumerate(stamps)]
    events = [Event(s.epoch, s.arm, s.key, f"m{i % 5}", 60.0 * i / keys, True) for i, s in enumerate(stamps)]
    at_start = len(evidence.to_json())
    batches = range(0, keys, REPORT)
    routed = [Report("a", i + 1, first_requests=tuple(firsts[i : i + REPORT])) for i in batches]
    failed = [Report("b", i + 1, events=tuple(events[i : i + REPORT])) for i in batches]
    start = time.process_time()
    for report in routed:
        evidence.apply(report)
    middle = time.process_time()
    for report in failed:
        evidence.apply(report)
    end = time.process_time()
    evidence.tick(200.0)
    ticks = 200
    tick_start = time.process_time()
    for _ in range(ticks):
        evidence.tick(200.0)
    tick_end = time.process_time()
    state = evidence.to_json()
    return {
        "first request, µs": (middle - start) / keys * 1e6,
        "event, µs": (end - middle) / keys * 1e6,
        "tick, ms": (tick_end - tick_start) / ticks * 1e3,
        "state without keys, KB": (len(state) - len(json.loads(state)["seen"]["packed"])) / 1e3,
        "state at the start, KB": at_start / 1e3,
        "state, bytes per key": len(json.loads(state)["seen"]["packed"]) / keys,
        "keys": keys,
    }
