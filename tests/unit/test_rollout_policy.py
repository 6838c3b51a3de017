"""The policy: steps by the clock and pooled totals, what ends a rollout, and in which order the rules apply."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import ConfigError
from raymlops.rollout import Health, RolloutPolicy, RolloutState, Step, Verdict, cooldown_left, decide, start
from raymlops.rollout.evidence import CandidateEvidence, Finding

POLICY = RolloutPolicy(
    steps=(Step(0.1, 60.0, 100), Step(0.3, 60.0), Step(0.5)), warmup_seconds=30.0, deadline_seconds=1000.0
)


def finding(verdict: Verdict = Verdict.HOLD, requests: int = 0) -> Finding:
    return Finding(
        0.0, verdict, "because", (), 1 if verdict is Verdict.PROMOTE else None, 0.0, 5.0, 5.0, requests, (), 0, 0
    )


def at_step(step: int, since: float = 0.0) -> RolloutState:
    return replace(start(0.0), step=step, step_started_at=since)


def test_a_healthy_rollout_warms_up_climbs_and_promotes():
    state, shares = start(0.0), []
    for now, requests in ((0, 0), (30, 10), (80, 500), (95, 600), (160, 700), (170, 800)):
        state, decision = decide(state, POLICY, finding(requests=requests), now=float(now))
        shares.append((decision.share, decision.counted))
    assert shares == [(0.1, False), (0.1, True), (0.1, True), (0.3, True), (0.5, True), (0.5, True)]
    state, decision = decide(state, POLICY, finding(Verdict.PROMOTE, 900), now=180.0)
    assert (decision.verdict, decision.share, state.ended) == (Verdict.PROMOTE, 1.0, Verdict.PROMOTE)


def test_a_step_waits_for_its_requests_as_well_as_for_its_time():
    state, _ = decide(start(0.0), POLICY, finding(requests=50), now=30.0)
    assert decide(state, POLICY, finding(requests=149), now=500.0)[1].share == 0.1
    assert decide(state, POLICY, finding(requests=150), now=500.0)[1].share == 0.3


def test_a_rollback_takes_the_traffic_at_once_and_starts_the_cooldown():
    state, decision = decide(at_step(1), POLICY, finding(Verdict.ROLLBACK), now=5.0)
    assert (decision.verdict, decision.share) == (Verdict.ROLLBACK, 0.0)
    assert cooldown_left(POLICY, state, 5.0 + 600.0) == 3000.0
    assert cooldown_left(POLICY, state, 5.0 + 3600.0) == 0.0
    assert cooldown_left(POLICY, None, 0.0) == 0.0


def test_promotion_waits_for_the_last_step_unless_told_otherwise():
    promote = finding(Verdict.PROMOTE, 1000)
    assert decide(at_step(0), POLICY, promote, now=70.0)[1].share == 0.3
    early = replace(POLICY, promote_at_last_step=False)
    assert decide(at_step(0), early, promote, now=70.0)[1].verdict is Verdict.PROMOTE
    assert decide(at_step(-1), early, promote, now=10.0)[1].verdict is Verdict.HOLD


def test_the_service_level_of_both_arms_overrules_good_evidence():
    policy = replace(POLICY, max_bad_share=0.05)
    state, decision = decide(at_step(2), policy, finding(Verdict.PROMOTE), now=200.0, health=Health(1000, 80))
    assert (decision.verdict, decision.share, state.ended) == (Verdict.ROLLBACK, 0.0, Verdict.ROLLBACK)
    assert "8.00% of 1000" in decision.reason
    too_few = decide(at_step(2), policy, finding(), now=200.0, health=Health(100, 100))[1]
    assert too_few.verdict is Verdict.HOLD


def test_the_deadline_expires_a_rollout_but_not_evidence_that_is_in():
    state, decision = decide(at_step(2), POLICY, finding(), now=1000.0)
    assert (decision.verdict, decision.share, state.ended) == (Verdict.EXPIRED, 0.0, Verdict.EXPIRED)
    hold = replace(POLICY, expire_to=Verdict.HOLD)
    assert decide(at_step(2), hold, finding(), now=1000.0)[1].share == 0.5
    assert decide(at_step(2), POLICY, finding(Verdict.PROMOTE), now=1000.0)[1].verdict is Verdict.PROMOTE


def test_approvals_stop_a_step_and_a_promotion_until_given():
    policy = replace(POLICY, steps=(Step(0.1), Step(0.5, approval=True)), approve_promotion=True)
    state, decision = decide(at_step(0), policy, finding(), now=40.0)
    assert decision.waits_for_approval and decision.share == 0.1
    state, decision = decide(state.approve(1), policy, finding(), now=41.0)
    assert decision.share == 0.5
    _, decision = decide(state, policy, finding(Verdict.PROMOTE), now=42.0)
    assert decision.waits_for_approval and decision.verdict is Verdict.HOLD
    _, decision = decide(state.approve_promotion(), policy, finding(Verdict.PROMOTE), now=43.0)
    assert decision.verdict is Verdict.PROMOTE


def test_a_broken_split_and_a_pause_keep_the_share_and_do_not_hide_a_rollback():
    assert decide(at_step(1), POLICY, finding(Verdict.BROKEN_SPLIT), now=500.0)[1].share == 0.3
    paused = at_step(1).pause()
    assert decide(paused, POLICY, finding(Verdict.PROMOTE), now=500.0)[1].verdict is Verdict.HOLD
    assert decide(paused, POLICY, finding(Verdict.ROLLBACK), now=500.0)[1].verdict is Verdict.ROLLBACK


calls = st.lists(st.tuples(st.floats(0.0, 200.0), st.sampled_from(list(Verdict)), st.integers(0, 500)), max_size=30)


@given(calls)
@settings(max_examples=200, deadline=None)
def test_shares_never_fall_before_the_end_and_the_end_is_final(steps):
    state, now, last, requests = start(0.0), 0.0, 0.0, 0
    for wait, verdict, more in steps:
        now, requests, over = now + wait, requests + more, state.ended
        evidence = finding(Verdict.HOLD if verdict is Verdict.EXPIRED else verdict, requests)
        again = decide(state, POLICY, evidence, now=now)
        state, decision = decide(
            RolloutState.from_dict(json.loads(json.dumps(state.to_dict()))), POLICY, evidence, now=now
        )
        assert again == (state, decision)
        if over is not None:
            assert state.ended is over
        elif state.ended is None:
            assert decision.share >= last
            last = decision.share


def test_a_fresh_salt_comes_by_the_clock_and_only_at_the_last_step():
    policy = replace(POLICY, resalt_seconds=100.0)
    assert not decide(at_step(0), policy, finding(), now=500.0)[1].fresh_salt
    state, decision = decide(at_step(2), policy, finding(), now=100.0)
    assert decision.fresh_salt and decision.share == 0.5
    assert not decide(state, policy, finding(), now=199.0)[1].fresh_salt
    assert decide(state, policy, finding(), now=200.0)[1].fresh_salt


def test_a_candidate_that_is_worse_is_dropped_while_another_goes_on():
    rows = tuple(CandidateEvidence(n, v, None, ()) for n, v in ((1, Verdict.ROLLBACK), (2, Verdict.HOLD)))
    _, decision = decide(at_step(1), POLICY, replace(finding(), candidates=rows), now=70.0)
    assert (decision.verdict, decision.dropped) == (Verdict.HOLD, (1,))


def test_every_wrong_field_of_a_policy_is_named():
    with pytest.raises(ConfigError) as caught:
        RolloutPolicy(steps=(Step(0.5), Step(0.1)), deadline_seconds=10.0, max_bad_share=2.0)
    assert [p.split(":")[0] for p in caught.value.problems] == ["steps", "deadline_seconds", "max_bad_share"]
