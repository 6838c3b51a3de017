"""Rollouts to test with: a fixed salt, keys of an arm, reports of simulated replicas."""

from __future__ import annotations

import random

from raymlops.rollout.evidence import (
    Event,
    EvidenceConfig,
    FirstRequest,
    RateMetric,
    Report,
    RolloutEvidence,
)

ERRORS = EvidenceConfig(metrics=(RateMetric("errors"),), request_timeout=10.0)


def key_of(evidence: RolloutEvidence, arm: int, skip: int = 0) -> int:
    """A key that the current epoch gives to `arm`."""
    found = (s for i in range(100_000) if (s := evidence.assignment.route(f"user-{i}")).arm == arm)
    for _ in range(skip):
        next(found)
    return next(found).unit


def rollout(config: EvidenceConfig = ERRORS, share: float = 0.5) -> RolloutEvidence:
    evidence = RolloutEvidence(config)
    evidence.open_block((share,), salt="s")
    return evidence


def traffic(
    evidence: RolloutEvidence,
    rng: random.Random,
    requests: int,
    rates: tuple[float, ...],
    replicas: int = 4,
    keys: int = 0,
) -> list[Report]:
    """Reports of simulated requests; replicas see random requests of every key and know only their own firsts."""
    seen: list[set[int]] = [set() for _ in range(replicas)]
    rows: list[tuple[list[FirstRequest], list[Event]]] = [([], []) for _ in range(replicas)]
    for i in range(requests):
        stamp = evidence.assignment.route(f"k{rng.randrange(keys)}" if keys else f"r{i}")
        replica = rng.randrange(replicas)
        first = stamp.unit not in seen[replica]
        seen[replica].add(stamp.unit)
        bad = rng.random() < rates[stamp.arm]
        if first:
            events = ("errors",) if bad else ()
            rows[replica][0].append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, float(i), events))
        if bad:
            rows[replica][1].append(Event(stamp.epoch, stamp.arm, stamp.key, "errors", float(i)))
    return [Report(f"r{n}", 1, tuple(firsts), tuple(events)) for n, (firsts, events) in enumerate(rows)]
