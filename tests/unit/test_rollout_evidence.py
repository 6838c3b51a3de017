"""The evidence of a rollout: what is counted, what is refused, and what is decided."""

from __future__ import annotations

import math
import random

import pytest
from evidence_cases import ERRORS, key_of, rollout, traffic
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


def test_the_blame_is_the_metric_that_was_found_even_if_another_gets_worse_later():
    evidence = rollout(EvidenceConfig((RateMetric("errors"), RateMetric("timeouts"))))
    evidence.apply(Report("a", 1, events=(Event(0, 1, None, "errors", 0.0),) * 30))
    assert evidence.tick(1.0).candidates[0].blame == "errors"
    evidence.apply(Report("a", 2, events=(Event(0, 1, None, "timeouts", 0.0),) * 90))
    assert evidence.tick(2.0).candidates[0].blame == "errors"
