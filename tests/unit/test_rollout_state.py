"""The state of a rollout's evidence: it replays bit for bit, and it is bounded."""

from __future__ import annotations

import json
import math
import random

import pytest
from evidence_cases import rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.rollout.evidence import (
    Event,
    EvidenceConfig,
    FirstRequest,
    LatencyMetric,
    MeanMetric,
    Outcome,
    RateMetric,
    Report,
    RolloutEvidence,
    Verdict,
)
from raymlops.rollout.evidence.keys import SeenKeys


def ledger(seed: int) -> tuple[EvidenceConfig, list[tuple[str, object]]]:
    """A rollout with everything in it, as the calls that made it."""
    metrics = (RateMetric("errors", excess=0.1), LatencyMetric("latency"), MeanMetric("quality", horizon=50.0))
    config = EvidenceConfig(metrics, candidates=2, first_requests=1 + seed % 3, window_seconds=30.0, max_pending=60)
    evidence, rng = RolloutEvidence(config), random.Random(seed)
    calls: list[tuple[str, object]] = [("block", (0.05, 0.05)), ("epoch", (0.1, 0.2))]
    evidence.open_block((0.05, 0.05), salt="block")
    evidence.open_epoch((0.1, 0.2))
    for step in range(1, 12):
        events, firsts, outcomes = [], [], []
        for _ in range(rng.randrange(40)):
            stamp = evidence.assignment.route(f"k{rng.randrange(200)}" if rng.random() < 0.8 else None)
            at = step * 10.0 + rng.random() * 10.0
            name = rng.choice(["errors", "latency", "latency@margin"])
            bad = (name,) if rng.random() < 0.5 else ()
            firsts.append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, at, bad))
            events.append(Event(stamp.epoch, stamp.arm, stamp.key, name, at))
            outcomes.append(
                Outcome(stamp.epoch, stamp.arm, stamp.key, "quality", at, at + 60 * rng.random(), rng.random())
            )
        report = Report(f"r{rng.randrange(3)}", step, tuple(firsts), tuple(events), tuple(outcomes))
        calls += [("report", report.to_dict()), ("tick", step * 10.0 + 15.0)]
    return config, calls


def play(evidence: RolloutEvidence, calls: list[tuple[str, object]], *, reload: bool) -> tuple[list[object], str]:
    found: list[object] = []
    for kind, value in json.loads(json.dumps(calls)):
        if reload:
            evidence = RolloutEvidence.from_json(evidence.to_json())
        if kind == "block":
            evidence.open_block(tuple(value), salt="block")
        elif kind == "epoch":
            evidence.open_epoch(tuple(value))
        elif kind == "report":
            evidence.apply(Report.from_dict(value))
        else:
            found.append(evidence.tick(value))
    return found, evidence.to_json()


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_same_ledger_gives_the_same_findings_bit_for_bit(seed):
    config, calls = ledger(seed)
    once = play(RolloutEvidence(config), calls, reload=False)
    assert play(RolloutEvidence(config), calls, reload=False) == once
    assert play(RolloutEvidence(config), calls, reload=True) == once


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 15)), max_size=300), st.randoms())
@settings(max_examples=50, deadline=None)
def test_seen_keys_answers_like_a_set_and_survives_json(pairs, rng):
    seen, model = SeenKeys(), set()
    for key, metric in pairs + [rng.choice(pairs) for _ in pairs]:
        assert seen.count_once(key, metric) == ((key, metric) not in model)
        model.add((key, metric))
        if rng.random() < 0.02:
            seen = SeenKeys.from_dict(json.loads(json.dumps(seen.to_dict())))
    assert len(seen) == len({key for key, _ in model})


def test_at_the_bound_new_keys_are_ignored_and_known_ones_still_count():
    seen = SeenKeys(limit=2)
    assert seen.count_once(1, 0) and seen.count_once(2, 0)
    assert not seen.count_once(3, 0)
    assert seen.count_once(1, 1)
    assert (len(seen), seen.refused) == (2, 1)


@pytest.mark.parametrize("m", [1, 3])
def test_state_grows_with_keys_that_have_an_event_and_not_with_those_that_have_none(m):
    metrics = tuple(RateMetric(f"m{i}") for i in range(5))
    evidence = RolloutEvidence(EvidenceConfig(metrics, candidates=3, first_requests=m))
    evidence.open_block((0.1, 0.1, 0.1), salt="s")
    rng = random.Random(0)
    events, firsts = [], []
    for i in range(60_000):
        stamp, at = evidence.assignment.route(str(i)), i / 1000.0
        bad = (f"m{rng.randrange(5)}",) if i % 10 == 0 else ()
        firsts.append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, at, bad))
        events += [Event(stamp.epoch, stamp.arm, stamp.key, name, at) for name in bad]
    for i in range(300):  # more replicas than are remembered
        evidence.apply(Report(f"endpoint-replica-{i:08}", 1, tuple(firsts[i * 200 : (i + 1) * 200])))
    evidence.apply(Report("a", 1, events=tuple(events)))
    evidence.tick(60.0)
    assert len(evidence.to_json()) <= 100_000 + 16 * len(events)


def test_state_is_largest_when_half_of_the_buckets_are_taken_and_still_within_its_bound():
    evidence, rng = (
        RolloutEvidence(EvidenceConfig(tuple(RateMetric(f"m{i}") for i in range(5)), candidates=3)),
        random.Random(0),
    )
    evidence.open_block((0.1, 0.1, 0.1), salt="s")
    buckets = evidence._firsts.buckets
    while buckets.taken < buckets.size / 2:
        buckets.take(rng.getrandbits(64))
    assert 80_000 < len(evidence.to_json()) < 85_500


def test_when_too_many_labels_wait_a_hash_says_which_stay_and_not_their_order():
    config = EvidenceConfig((MeanMetric("quality", horizon=100.0),), max_pending=50)
    one, other, rng = rollout(config), rollout(config), random.Random(0)
    stamps = [one.assignment.route(f"u{i}") for i in range(400)]
    rows = [Outcome(0, s.arm, s.key, "quality", float(i), i + 1.0, 0.5) for i, s in enumerate(stamps)]
    one.apply(Report("a", 1, outcomes=tuple(rows)))
    other.apply(Report("a", 1, outcomes=tuple(rng.sample(rows, len(rows)))))
    assert one.tick(1000.0).skipped == other.tick(1000.0).skipped >= 350
    assert one.display() == other.display() and sum(one.display()["quality"][0]["labels"]) > 20


def test_what_was_found_once_stays_found():
    evidence = rollout(EvidenceConfig((MeanMetric("quality", horizon=1.0), RateMetric("errors")), request_timeout=1.0))
    lost = [Outcome(0, 1, None, "quality", float(i), None, None) for i in range(60)]
    evidence.apply(Report("a", 1, (FirstRequest(0, 0, None, 0.0, count=300),), outcomes=tuple(lost)))
    assert evidence.tick(100.0).candidates[0].metrics[0].void
    later = [Outcome(0, 0, None, "quality", 200.0 + i, None, None) for i in range(60)]
    evidence.apply(Report("a", 2, (FirstRequest(0, 1, None, 0.0, count=300),), outcomes=tuple(later)))
    found = RolloutEvidence.from_json(evidence.to_json()).tick(1000.0)
    assert found.candidates[0].metrics[0].void and found.verdict is Verdict.BROKEN_SPLIT
    assert found.log_e_split < math.log(1000.0)
