"""First requests and the replica's side: windows, buckets, the reporter, and what the types leave no place for."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import fields

import pytest
from evidence_cases import key_of, rollout
from hypothesis import given
from hypothesis import strategies as st

from raymlops.rollout.evidence import (
    Assignment,
    Event,
    EvidenceConfig,
    EvidenceError,
    FirstRequest,
    LatencyMetric,
    LatencyThresholds,
    Outcome,
    RateMetric,
    Report,
    Reporter,
    RolloutEvidence,
    Traffic,
    slow_events,
)
from raymlops.rollout.evidence.buckets import KeyBuckets
from raymlops.rollout.evidence.rates import RateEvidence, promotion_ratios
from raymlops.serving.document import LatencyRule


def test_only_the_first_first_request_of_a_key_counts_for_promotion():
    evidence = rollout()
    key, other = key_of(evidence, 1), key_of(evidence, 1, skip=1)
    evidence.apply(Report("a", 1, (FirstRequest(0, 1, key, 0.0),)))
    evidence.apply(Report("b", 1, (FirstRequest(0, 1, key, 0.0, ("errors",)),)))
    before = evidence.tick(100.0)
    assert before.unit_counts == (0, 1)
    assert before.candidates[0].metrics[0].log_e_promotion == pytest.approx(0.0, abs=1e-12)
    evidence.apply(Report("b", 2, (FirstRequest(0, 1, other, 0.0, ("errors",)),)))
    assert evidence.tick(200.0).candidates[0].metrics[0].log_e_promotion < 0.0


def promotion_evidence(evidence: RolloutEvidence, now: float) -> float:
    return evidence.tick(now).candidates[0].metrics[0].log_e_promotion


def test_with_m_above_one_a_window_of_a_keys_requests_counts_once_when_its_time_is_over():
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=10.0, first_requests=4, window_seconds=60.0)
    evidence = rollout(config)
    key = key_of(evidence, 1)
    bad, good = ("errors",), ()
    seen = [(0.0, bad), (10.0, good), (20.0, bad), (50.0, good), (55.0, bad)]  # the fifth is one too many
    for n, (at, events) in enumerate(seen):
        evidence.apply(Report(f"r{n % 2}", n + 1, (FirstRequest(0, 1, key, at, events),)))
    assert promotion_evidence(evidence, 74.0) == pytest.approx(0.0, abs=1e-12)
    half = RateEvidence(promotion_ratios(2.0), 2.0)
    half.add(0.5, True, part=2 / 4)
    assert promotion_evidence(evidence, 75.0) == pytest.approx(half.log_e())
    evidence.apply(Report("r0", 9, (FirstRequest(0, 1, key, 80.0, bad),)))
    evidence.apply(Report("r0", 10, (FirstRequest(0, 1, None, 80.0, bad),)))
    half.add(0.5, True)  # a request without a key is a window of its own
    assert promotion_evidence(evidence, 500.0) == pytest.approx(half.log_e())
    assert evidence.tick(500.0).unit_counts == (0, 2)


def test_a_window_is_cut_where_the_shares_change_and_where_its_time_ends():
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=10.0, first_requests=4, window_seconds=60.0)
    evidence = rollout(config, share=0.2)
    key, late = key_of(evidence, 1), key_of(evidence, 1, skip=1)
    evidence.apply(Report("a", 1, (FirstRequest(0, 1, key, 0.0), FirstRequest(0, 1, late, 0.0))))
    evidence.open_epoch((0.5,))
    rows = FirstRequest(1, 1, key, 30.0, ("errors",)), FirstRequest(0, 1, late, 61.0, ("errors",))
    evidence.apply(Report("a", 2, rows))
    evidence = RolloutEvidence.from_json(evidence.to_json())
    assert promotion_evidence(evidence, 1000.0) == pytest.approx(0.0, abs=1e-12)


def test_first_requests_are_taken_once_per_bucket_whatever_their_arm():
    buckets, rng = KeyBuckets(1_000), random.Random(0)
    keys = [rng.getrandbits(64) for _ in range(5_000)]
    taken = [key for key in keys if buckets.take(key)]
    assert len({(key & 0xFFFFFFFF) * 1_000 >> 32 for key in taken}) == len(taken) == buckets.taken
    assert not any(buckets.take(key) for key in taken)
    assert len(taken) == pytest.approx(1_000 * (1 - math.exp(-5)), rel=0.02)
    top = sum(key >> 63 for key in taken)  # the half that a share of 0.5 would give to control
    assert abs(top - len(taken) / 2) < 4 * math.sqrt(len(taken) / 4)
    again = KeyBuckets.from_dict(json.loads(json.dumps(buckets.to_dict())))
    assert again.taken == buckets.taken and not again.take(taken[0])


def test_a_replica_that_reports_with_the_reporter_gives_the_counts_of_the_traffic():
    """Four replicas, sticky keys, a warm-up and a ramp; compared with counting every request by hand."""
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=2.0)
    evidence, rng = RolloutEvidence(config), random.Random(0)
    reporters = [Reporter(f"r{i}", config) for i in range(4)]
    epochs = [evidence.open_block((0.2,), salt="s", counted=False)]
    first_event: dict[int, int] = {}
    first_request: dict[int, tuple[int, bool]] = {}
    for second in range(60):
        if second in (10, 30):
            epochs.append(evidence.open_epoch((0.2,) if second == 10 else (0.5,)))
        for reporter in reporters:
            for epoch in epochs:
                reporter.follow(epoch)
        for _ in range(30):
            stamp, bad = evidence.assignment.route(f"k{rng.randrange(400)}"), rng.random() < 0.1
            reporter = rng.choice(reporters)
            request = reporter.routed(stamp, second + 0.5)
            if bad:
                reporter.happened(request, "errors")
                reporter.happened(request, "errors")
            if stamp.epoch > 0:
                first_request.setdefault(stamp.unit, (stamp.arm, bad))
                if bad:
                    first_event.setdefault(stamp.unit, stamp.arm)
        for reporter in reporters:
            evidence.apply(reporter.report(second + 1.0))
    for reporter in reporters:
        evidence.apply(Report.from_dict(json.loads(json.dumps(reporter.report(100.0).to_dict()))))
    finding = evidence.tick(100.0)
    arms = list(first_event.values())
    shown = evidence.display()["errors"][0]["first_events"]
    # Two keys that are first in the same second at different replicas may swap; none is lost or counted twice.
    assert sum(shown) == len(arms) and abs(shown[1] - sum(arms)) <= 2
    assert finding.unit_counts[0] + finding.unit_counts[1] == len(first_request)
    assert finding.requests == 1800


def test_a_reporter_holds_first_requests_back_until_every_arm_had_its_time():
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=30.0)
    assignment, reporter = Assignment(), Reporter("a", config)
    reporter.follow(assignment.open_block((0.5,), salt="s"))
    request = reporter.routed(assignment.route("user"), 0.0)
    anonymous = [reporter.routed(assignment.route(None), 1.0) for _ in range(3)]
    assert reporter.report(29.0).first_requests == ()
    reporter.happened(request, "errors")
    sent = reporter.report(31.0)
    assert [event.key for event in sent.events] == [request.stamp.key]
    assert sent.first_requests[0].events == ("errors",) and sum(r.count for r in sent.first_requests[1:]) == 3
    assert all(r.key is None for r in sent.first_requests[1:]) and len(anonymous) == 3
    reporter.routed(assignment.route("user"), 40.0)
    assert reporter.report(100.0).first_requests == ()
    with pytest.raises(EvidenceError, match=r"metric: expected one of \['errors'\], found 'slow'"):
        reporter.happened(request, "slow")
    assignment.open_epoch((0.6,))
    with pytest.raises(EvidenceError, match=r"epoch: expected one of \[0\]"):
        reporter.routed(assignment.route("user"), 41.0)


def test_a_latency_gives_the_events_of_both_thresholds():
    metric = LatencyMetric("latency", tolerance=1.0, margin=1.5)
    thresholds = LatencyThresholds(metric, seed=[1.0] * 100)
    for _ in range(10):
        thresholds.observe(3.0, candidate=True)
    at = LatencyThresholds.from_dict(json.loads(json.dumps(thresholds.to_dict()))).freeze()
    assert at == thresholds.freeze() == (3.0, 2.0)
    assert slow_events(metric, 3.5, at, candidate=True) == ("latency", "latency@margin")
    assert slow_events(metric, 2.5, at, candidate=True) == ()
    assert slow_events(metric, 2.5, at, candidate=False) == ("latency@margin",)


SECONDS = st.floats(0.0, 10.0).map(lambda x: round(x, 6))


@given(
    st.lists(SECONDS, min_size=20, max_size=60),
    st.floats(0.5, 0.99),
    st.sampled_from([1.0, 1.2, 2.0]),
    st.sampled_from([0.0, 0.002, 0.5]),
    st.floats(0.0, 1.0),
)
def test_a_candidate_at_the_edge_of_what_is_tolerated_is_judged_as_control_is(
    control: list[float], quantile: float, tolerance: float, slack: float, share: float
) -> None:
    """Its latencies are tolerance x control's + slack, whatever control's are: then the threshold does not depend on
    who was the candidate, and the same requests are events. So what is at most as slow has no more than control."""
    metric = LatencyMetric("latency", tolerance=tolerance, margin=3.0, quantile=quantile, slack=slack)
    alone, mixed = LatencyThresholds(metric, seed=control), LatencyThresholds(metric)
    for n, seconds in enumerate(control):
        candidate = n < share * len(control)
        mixed.observe(tolerance * seconds + slack if candidate else seconds, candidate=candidate)
    threshold = alone.freeze()[0]
    assert mixed.freeze()[0] == pytest.approx(threshold, abs=1e-9)
    rule = LatencyRule("latency", threshold, tolerance, slack)
    for seconds in control:
        at_edge = tolerance * seconds + slack
        if abs(seconds - threshold) < 1e-9:
            continue  # equal but for rounding
        slow = seconds > threshold
        assert ("latency" in slow_events(metric, at_edge, (threshold, 1e9), candidate=True)) == slow
        assert (at_edge > rule.limit(candidate=True)) == (seconds > rule.limit(candidate=False)) == slow
        assert slow_events(metric, at_edge - slack / 2, (threshold, 1e9), candidate=True) <= ("latency",) * slow


def test_a_reporter_sends_each_of_the_first_m_requests_of_a_key():
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=1.0, first_requests=3)
    assignment, reporter = Assignment(), Reporter("a", config)
    reporter.follow(assignment.open_block((0.5,), salt="s"))
    for n in range(5):
        reporter.routed(assignment.route("user"), float(n))
    assert [r.routed_at for r in reporter.report(10.0).first_requests] == [0.0, 1.0, 2.0]
    reporter.follow(assignment.open_block((0.5,), salt="t"))
    reporter.routed(assignment.route("user"), 20.0)
    assert len(reporter.report(30.0).first_requests) == 1


@pytest.mark.parametrize("fact", [FirstRequest, Event, Outcome, Traffic, Report])
def test_what_a_replica_reports_has_no_place_for_shares_rates_or_its_own_deduplication(fact):
    """An epoch stands for its exact shares, a key for itself; sums are in `Traffic` alone, which no evidence reads."""
    allowed = {"epoch", "arm", "key", "routed_at", "metric", "label_at", "value", "events", "replica", "sequence"}
    allowed |= {"requests"} if fact is Traffic else {"count"} if fact is FirstRequest else set()
    allowed |= {"first_requests", "outcomes", "traffic"} if fact is Report else set()
    assert {field.name for field in fields(fact)} <= allowed


def test_counts_stand_only_for_requests_without_a_key():
    with pytest.raises(EvidenceError, match="count 1, or more without a key, found 2"):
        FirstRequest(0, 0, 17, 0.0, count=2)


def test_totals_of_replicas_change_no_evidence():
    with_totals, without = rollout(), rollout()
    rows = (Event(0, 1, None, "errors", 0.0),) * 5
    with_totals.apply(
        Report("a", 1, events=rows, traffic=(Traffic(0, 0, 10_000, {}), Traffic(0, 1, 10, {"errors": 9})))
    )
    without.apply(Report("a", 1, events=rows))
    assert with_totals.tick(1.0).candidates == without.tick(1.0).candidates


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sets(st.sampled_from(["errors", "slow"]))), max_size=40),
    st.integers(0, 3),
)
def test_requests_without_a_key_are_reported_with_what_happened_to_them(
    requests: list[tuple[int, bool, set[str]]], late: int
) -> None:
    """Also when many were routed at the same moment; what happens after the report does not belong to it."""
    reporter = Reporter("r", EvidenceConfig((RateMetric("errors"), RateMetric("slow")), request_timeout=10.0))
    assignment = Assignment(1)
    reporter.follow(assignment.open_block((0.5,)))
    expected: Counter[tuple[int, tuple[str, ...]]] = Counter()
    now, routed = 0.0, []
    for step, keyed, events in requests:
        now += step / 2
        made = reporter.routed(assignment.route(f"key-{len(routed)}" if keyed else None), now)
        routed.append(made)
        for metric in sorted(events):
            reporter.happened(made, metric)
        if not keyed:
            expected[made.stamp.arm, tuple(sorted(events))] += 1
    report = reporter.report(now + 10.0)
    found: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for first in report.first_requests:
        if first.key is None:
            found[first.arm, first.events] += first.count
    assert found == expected
    for made in routed[:late]:
        reporter.happened(made, "errors")
    assert reporter.report(now + 99.0).first_requests == ()
    assert not reporter._marked
