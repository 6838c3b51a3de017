"""Part 4: what the evidence costs, in CPU time of this process: 5 metrics × 3 candidates, every key distinct; and what
labels cost, which wait for their horizon.

Times are the best of three runs: other work on the machine only ever adds to them.
"""

from __future__ import annotations

import json
import time

from raymlops.rollout.evidence import (
    Event,
    EvidenceConfig,
    FirstRequest,
    MeanMetric,
    Outcome,
    RateMetric,
    Report,
    RolloutEvidence,
)

REPORT = 100
"""Facts in one report."""


def cost(keys: int) -> dict[str, float]:
    """Microseconds per fact, milliseconds per tick, and bytes of state: `keys` keys that have an event, after three
    times as many that have none."""
    runs = [_once(keys) for _ in range(3)]
    runs = [{**run, **_labels(keys // 10)} for run in runs]
    best = {name: min(run[name] for run in runs) for name in runs[0]}
    return {**best, "keys with an event": keys, "keys without": 3 * keys}


def _once(keys: int) -> dict[str, float]:
    evidence = RolloutEvidence(EvidenceConfig(tuple(RateMetric(f"m{i}") for i in range(5)), candidates=3))
    evidence.open_block((0.1, 0.1, 0.1), salt="cost")
    at_start = len(evidence.to_json())
    firsts, events = [], []
    for i in range(4 * keys):
        stamp, at = evidence.assignment.route(f"key-{i}"), 60.0 * i / keys
        names = (f"m{i % 5}",) if i >= 3 * keys else ()
        firsts.append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, at, names))
        events += [Event(stamp.epoch, stamp.arm, stamp.key, name, at) for name in names]
    routed = [Report("a", i + 1, tuple(firsts[i : i + REPORT])) for i in range(0, len(firsts), REPORT)]
    failed = [Report("b", i + 1, events=tuple(events[i : i + REPORT])) for i in range(0, len(events), REPORT)]
    start = time.process_time()
    for report in routed:
        evidence.apply(report)
    middle = time.process_time()
    for report in failed:
        evidence.apply(report)
    end = time.process_time()
    evidence.tick(1000.0)
    ticks = 200
    tick_start = time.process_time()
    for _ in range(ticks):
        evidence.tick(1000.0)
    tick_end = time.process_time()
    state = evidence.to_json()
    of_keys = len(json.loads(state)["seen"]["packed"])
    return {
        "first request, µs": (middle - start) / len(firsts) * 1e6,
        "event, µs": (end - middle) / len(events) * 1e6,
        "tick, ms": (tick_end - tick_start) / ticks * 1e3,
        "state at the start, KB": at_start / 1e3,
        "state without keys, KB": (len(state) - of_keys) / 1e3,
        "state per key with an event, bytes": of_keys / keys,
    }


def _labels(n: int) -> dict[str, float]:
    """Microseconds per label from its report to the evidence, and bytes of state while it waits."""
    evidence = RolloutEvidence(EvidenceConfig((MeanMetric("quality", horizon=3600.0),)))
    evidence.open_block((0.5,), salt="cost")
    before, rows = len(evidence.to_json()), []
    for i in range(n):
        stamp, at = evidence.assignment.route(f"key-{i}"), 0.1 * i
        rows.append(Outcome(stamp.epoch, stamp.arm, stamp.key, "quality", at, at + 60.0, i * 0.618 % 1.0))
    start = time.process_time()
    for i in range(0, n, REPORT):
        evidence.apply(Report("labels", i + 1, outcomes=tuple(rows[i : i + REPORT])))
    middle = time.process_time()
    waiting = len(evidence.to_json())
    again = time.process_time()
    evidence.tick(1e6)
    return {
        "label, µs": (middle - start + time.process_time() - again) / n * 1e6,
        "state per waiting label, bytes": (waiting - before) / n,
    }
