"""The evidence of a rollout: what is counted, what is refused, and that a ledger replays bit for bit."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import ConfigError
from raymlops.rollout.evidence import (
    Assignment,
    Event,
    EvidenceConfig,
    EvidenceError,
    FirstRequest,
    LatencyMetric,
    LatencyThresholds,
    MeanMetric,
    Outcome,
    RateMetric,
    Report,
    Reporter,
    RolloutEvidence,
    Traffic,
    Verdict,
    slow_events,
)
from raymlops.rollout.evidence.buckets import KeyBuckets
from raymlops.rollout.evidence.keys import SeenKeys
from raymlops.rollout.evidence.rates import RateEvidence, promotion_ratios

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


def test_a_candidate_with_three_times_the_errors_is_rolled_back_and_blamed():
    evidence = rollout(EvidenceConfig(metrics=(RateMetric("timeouts"), RateMetric("errors")), request_timeout=10.0))
    for report in traffic(evidence, random.Random(1), 8_000, (0.01, 0.03)):
        evidence.apply(report)
    finding = evidence.tick(9_000.0)
    assert finding.verdict is Verdict.ROLLBACK
    assert finding.candidates[0].blame == "errors"
    assert finding.rollback_log_threshold == pytest.approx(math.log(2 / EvidenceConfig((RateMetric("x"),)).spent_alpha))
    low, high = evidence.display()["errors"][0]["ratio_interval"]
    assert 1.0 < low < 3.0 < high


def test_an_equal_candidate_is_promoted():
    evidence = rollout()
    for report in traffic(evidence, random.Random(2), 30_000, (0.02, 0.02)):
        evidence.apply(report)
    assert evidence.tick(40_000.0).verdict is Verdict.PROMOTE
    assert evidence.tick(40_000.0).promoted == 1


def test_a_key_counts_once_over_all_replicas_and_epochs():
    evidence = rollout(share=0.1)
    key = key_of(evidence, 0)
    for replica in ("a", "b", "c"):
        evidence.apply(Report(replica, 1, events=(Event(0, 0, key, "errors", 0.0),) * 3))
    evidence.open_epoch((0.5,))
    arm = evidence.assignment.arm_of(key, 1)
    evidence.apply(Report("a", 2, events=(Event(1, arm, key, "errors", 1.0),)))
    evidence.tick(2.0)
    assert evidence.display()["errors"][0]["first_events"] == [1, 0]


def test_requests_without_a_key_are_their_own_units():
    evidence = rollout()
    evidence.apply(Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),) * 20))
    assert evidence.tick(1.0).verdict is Verdict.ROLLBACK


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


def test_a_repeated_delivery_is_counted_once():
    evidence = rollout()
    report = Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),), traffic=(Traffic(0, 1, 5, {"errors": 1}),))
    assert evidence.apply(report)
    assert not evidence.apply(report)
    assert evidence.tick(1.0).requests == 5


def test_warm_up_counts_in_no_arm():
    evidence = RolloutEvidence(ERRORS)
    evidence.open_block((0.5,), salt="s", counted=False)
    evidence.apply(Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),) * 100))
    finding = evidence.tick(100.0)
    assert (finding.verdict, finding.skipped) == (Verdict.HOLD, 100)
    evidence.open_epoch((0.5,))
    evidence.apply(Report("a", 2, events=(Event(1, 1, None, "errors", 0.0),) * 100))
    assert evidence.tick(101.0).verdict is Verdict.ROLLBACK


def test_a_broken_split_stops_promotion_and_never_a_rollback():
    evidence = rollout()
    evidence.apply(Report("a", 1, first_requests=(FirstRequest(0, 0, None, 0.0),) * 300))
    assert evidence.tick(100.0).verdict is Verdict.BROKEN_SPLIT
    evidence.apply(Report("a", 2, events=(Event(0, 1, None, "errors", 0.0),) * 30))
    assert evidence.tick(101.0).verdict is Verdict.ROLLBACK


def test_a_found_rollback_is_not_taken_back_by_later_events():
    evidence = rollout()
    evidence.apply(Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),) * 20))
    assert evidence.tick(1.0).verdict is Verdict.ROLLBACK
    evidence.apply(Report("a", 2, events=(Event(0, 0, None, "errors", 0.0),) * 500))
    assert evidence.tick(2.0).verdict is Verdict.ROLLBACK


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(3, 1, None, "errors", 0.0), "epoch: expected one of the 1 that were opened, found 3"),
        (Event(0, 2, None, "errors", 0.0), "arm: expected 0 to 1, found 2"),
        (Event(0, 1, None, "erors", 0.0), r"metric: expected an event of \['errors'\], found 'erors'"),
    ],
)
def test_a_report_that_cannot_be_true_is_refused_whole(event, message):
    evidence = rollout()
    good = Event(0, 1, None, "errors", 0.0)
    with pytest.raises(EvidenceError, match=message):
        evidence.apply(Report("a", 1, events=(good, event)))
    assert evidence.display()["errors"][0]["first_events"] == [0, 0]
    assert evidence.apply(Report("a", 1, events=(good,)))


def test_reporting_the_arm_that_answered_instead_of_the_assigned_one_is_refused():
    evidence = rollout()
    with pytest.raises(EvidenceError, match="assigned, not the one that answered"):
        evidence.apply(Report("a", 1, events=(Event(0, 0, key_of(evidence, 1), "errors", 0.0),)))


def test_a_share_cannot_fall_inside_a_block_but_can_in_a_new_one():
    assignment = Assignment()
    assignment.open_block((0.2,), salt="a")
    with pytest.raises(EvidenceError, match=r"fall from 0\.2 to 0\.1"):
        assignment.open_epoch((0.1,))
    with pytest.raises(EvidenceError, match="fresh salt"):
        assignment.open_block((0.1,), salt="a")
    assert assignment.open_block((0.1,), salt="b").block == 1
    with pytest.raises(EvidenceError, match="nothing is left for control"):
        assignment.open_epoch((1.0,))


@given(st.lists(st.floats(0.0, 0.33), min_size=3, max_size=3), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_raising_shares_only_moves_keys_from_control_to_a_candidate(shares, key):
    assignment = Assignment(3)
    assignment.open_block([s / 2 for s in shares], salt="x")
    before = assignment.route(key).arm
    assignment.open_epoch(shares)
    after = assignment.route(key).arm
    assert after == before or before == 0


def test_assignment_gives_the_shares_it_promises():
    assignment = Assignment(2)
    assignment.open_block((0.1, 0.3), salt="x")
    arms = [assignment.route(f"k{i}").arm for i in range(20_000)]
    assert arms.count(1) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert arms.count(2) / 20_000 == pytest.approx(0.3, abs=0.015)


def test_labels_count_by_the_horizon_and_in_the_order_of_predictions():
    evidence = rollout(EvidenceConfig(metrics=(MeanMetric("quality", horizon=100.0),)))
    early = Outcome(0, 0, None, "quality", 10.0, 20.0, 0.9)
    late = Outcome(0, 1, None, "quality", 11.0, 150.0, 0.1)
    evidence.apply(Report("a", 1, outcomes=(late, early)))
    evidence.tick(109.0)
    assert evidence.display()["quality"][0]["labels"] == [0, 0]
    evidence.tick(111.0)
    assert evidence.display()["quality"][0] == {
        "labels": [1, 0],
        "missing": [0, 1],
        "mean_intervals": [[0.0, 1.0], [0.0, 1.0]],
    }
    evidence.apply(Report("a", 2, outcomes=(Outcome(0, 0, None, "quality", 10.5, 11.0, 0.9),)))
    assert evidence.tick(112.0).skipped == 1


def test_labels_that_go_missing_in_one_arm_void_the_metric():
    evidence = rollout(EvidenceConfig(metrics=(MeanMetric("quality", horizon=1.0),)))
    rows = [Outcome(0, i % 2, None, "quality", float(i), float(i), 0.5 if i % 2 else 0.9) for i in range(600)]
    rows += [Outcome(0, 1, None, "quality", 1000.0 + i, None, None) for i in range(100)]
    evidence.apply(Report("a", 1, outcomes=tuple(rows)))
    finding = evidence.tick(5_000.0)
    assert finding.candidates[0].metrics[0].void
    assert finding.verdict is Verdict.HOLD
    assert "labels go missing" in finding.reason


def test_a_worse_candidate_among_several_is_named_and_a_good_one_promoted():
    evidence = RolloutEvidence(EvidenceConfig(metrics=(RateMetric("errors"),), candidates=2, request_timeout=10.0))
    evidence.open_block((0.3, 0.3), salt="s")
    for report in traffic(evidence, random.Random(3), 40_000, (0.02, 0.08, 0.02)):
        evidence.apply(report)
    finding = evidence.tick(50_000.0)
    assert [c.verdict for c in finding.candidates] == [Verdict.ROLLBACK, Verdict.PROMOTE]
    assert (finding.verdict, finding.promoted) == (Verdict.PROMOTE, 2)


def test_promotion_by_an_absolute_bound_needs_every_part_of_the_day():
    evidence = rollout(EvidenceConfig(metrics=(RateMetric("errors", excess=0.01, strata=2),), request_timeout=1.0))
    morning = tuple(FirstRequest(0, i % 2, None, 3600.0) for i in range(4_000))
    evidence.apply(Report("a", 1, first_requests=morning))
    assert evidence.tick(40_000.0).verdict is Verdict.HOLD
    evening = tuple(FirstRequest(0, i % 2, None, 50_000.0) for i in range(4_000))
    evidence.apply(Report("a", 2, first_requests=evening))
    assert evidence.tick(60_000.0).verdict is Verdict.PROMOTE


def test_trying_an_artifact_again_spends_the_error():
    tries = [EvidenceConfig((RateMetric("errors"),), attempt=j).spent_alpha for j in range(1, 2000)]
    assert tries == sorted(tries, reverse=True)
    assert sum(tries) == pytest.approx(0.01, rel=1e-3) and sum(tries) < 0.01


def test_every_wrong_field_of_the_configuration_is_named():
    with pytest.raises(ConfigError) as caught:
        EvidenceConfig(
            metrics=(RateMetric("e", tolerance=2.0, margin=1.5), LatencyMetric("l", quantile=2.0)), alpha=0.0
        )
    assert [p.split(":")[0] for p in caught.value.problems] == ["alpha", "metrics.e.margin", "metrics.l.quantile"]


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


def test_a_new_block_counts_keys_again_and_skips_what_is_late_from_the_old_one():
    evidence = rollout()
    key = key_of(evidence, 1)
    evidence.apply(Report("a", 1, events=(Event(0, 1, key, "errors", 0.0),)))
    evidence.open_block((0.25,), salt="t")
    again = key_of(evidence, 1)
    evidence.apply(Report("a", 2, events=(Event(0, 1, key, "errors", 0.0), Event(1, 1, again, "errors", 0.0))))
    assert evidence.tick(1.0).skipped == 1
    assert evidence.display()["errors"][0]["first_events"] == [0, 2]


def test_latency_events_roll_back_and_their_margin_form_promotes():
    config = EvidenceConfig(metrics=(LatencyMetric("latency"),), request_timeout=1.0)
    slow = rollout(config)
    slow.apply(Report("a", 1, events=(Event(0, 1, None, "latency", 0.0),) * 30))
    assert slow.tick(10.0).verdict is Verdict.ROLLBACK
    good = rollout(config)
    rows = (
        FirstRequest(0, 0, None, 0.0, ("latency@margin",), 60),
        FirstRequest(0, 1, None, 0.0, ("latency", "latency@margin"), 20),
        FirstRequest(0, 0, None, 0.0, (), 440),
        FirstRequest(0, 1, None, 0.0, (), 480),
    )
    good.apply(Report("a", 1, rows))
    assert good.tick(10.0).verdict is Verdict.PROMOTE


def test_time_does_not_run_backwards():
    evidence = rollout()
    evidence.tick(10.0)
    with pytest.raises(EvidenceError, match="backwards"):
        evidence.tick(9.0)


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


def test_the_blame_is_the_metric_that_was_found_even_if_another_gets_worse_later():
    evidence = rollout(EvidenceConfig((RateMetric("errors"), RateMetric("timeouts"))))
    evidence.apply(Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),) * 30))
    assert evidence.tick(1.0).candidates[0].blame == "errors"
    evidence.apply(Report("a", 2, events=(Event(0, 1, None, "timeouts", 0.0),) * 90))
    assert evidence.tick(2.0).candidates[0].blame == "errors"


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
