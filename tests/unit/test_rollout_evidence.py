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
    MeanMetric,
    Outcome,
    RateMetric,
    Report,
    RolloutEvidence,
    Traffic,
    Verdict,
)
from raymlops.rollout.evidence.keys import SeenKeys

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
        if first:
            rows[replica][0].append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, float(i)))
        if rng.random() < rates[stamp.arm]:
            rows[replica][1].append(Event(stamp.epoch, stamp.arm, stamp.key, "errors", float(i), first))
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


def test_an_equal_candidate_is_promoted_once_the_requests_had_time_to_fail():
    evidence = rollout()
    for report in traffic(evidence, random.Random(2), 30_000, (0.02, 0.02)):
        evidence.apply(report)
    assert evidence.tick(0.0).verdict is Verdict.HOLD
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
    key = key_of(evidence, 1)
    first = FirstRequest(0, 1, key, 0.0)
    event = Event(0, 1, key, "errors", 0.0, first=True)
    evidence.apply(Report("a", 1, first_requests=(first,)))
    evidence.apply(Report("b", 1, first_requests=(first,), events=(event,)))
    before = evidence.tick(100.0)
    assert before.unit_counts == (0, 1)
    assert before.candidates[0].metrics[0].log_e_promotion == pytest.approx(0.0, abs=1e-12)
    evidence.apply(Report("a", 2, events=(event,)))
    assert evidence.tick(200.0).candidates[0].metrics[0].log_e_promotion < 0.0


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
        (Event(3, 1, None, "errors", 0.0), "no epoch 3"),
        (Event(0, 2, None, "errors", 0.0), "no arm 2"),
        (Event(0, 1, None, "erors", 0.0), "no event metric 'erors'"),
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
    config = EvidenceConfig(
        metrics=(RateMetric("errors"), LatencyMetric("latency"), MeanMetric("quality", horizon=50.0)), candidates=2
    )
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
            firsts.append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, at))
            events.append(Event(stamp.epoch, stamp.arm, stamp.key, name, at, rng.random() < 0.5))
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
    rows = (Event(0, 0, None, "latency@margin", 0.0, True),) * 60 + (
        Event(0, 1, None, "latency@margin", 0.0, True),
    ) * 20
    good.apply(Report("a", 1, events=rows))
    assert good.tick(10.0).verdict is Verdict.PROMOTE


def test_time_does_not_run_backwards():
    evidence = rollout()
    evidence.tick(10.0)
    with pytest.raises(EvidenceError, match="backwards"):
        evidence.tick(9.0)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 14)), max_size=300), st.randoms())
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


def test_state_stays_within_its_bound():
    evidence = RolloutEvidence(EvidenceConfig(metrics=tuple(RateMetric(f"m{i}") for i in range(5)), candidates=3))
    evidence.open_block((0.1, 0.1, 0.1), salt="s")
    rng = random.Random(0)
    keys = 20_000
    events = []
    for i in range(keys):
        stamp = evidence.assignment.route(str(i))
        events.append(Event(stamp.epoch, stamp.arm, stamp.key, f"m{rng.randrange(5)}", rng.random() * 60.0, True))
    evidence.apply(
        Report("a", 1, tuple(FirstRequest(e.epoch, e.arm, e.key, e.routed_at) for e in events), tuple(events))
    )
    evidence.tick(60.0)
    assert len(evidence.to_json()) <= 100_000 + 16 * keys
