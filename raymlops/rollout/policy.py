"""What to do next in a rollout: a pure function of the state, the configuration, the clock and the evidence.

    state, decision = decide(state, policy, finding, now=…, health=…)

The controller acts on the decision (a share, a verdict) and stores the state. Shares only rise, except to zero at the
end, and nothing here looks at how many requests an arm got: the time of a step depends on the clock and on pooled
totals, as the validity of the evidence demands.
"""

from __future__ import annotations

from dataclasses import replace

from raymlops.rollout.evidence.verdict import Finding, Verdict
from raymlops.rollout.policy_types import Decision, Health, RolloutPolicy, RolloutState, Step

__all__ = ["Decision", "Health", "RolloutPolicy", "RolloutState", "Step", "cooldown_left", "decide", "start"]


def start(now: float) -> RolloutState:
    """The state of a rollout that begins now, with its warm-up."""
    return RolloutState(started_at=now, step_started_at=now)


def cooldown_left(policy: RolloutPolicy, last: RolloutState | None, now: float) -> float:
    """Seconds until a new rollout of the endpoint may begin; 0 if it may."""
    if last is None or last.ended is not Verdict.ROLLBACK or last.ended_at is None:
        return 0.0
    return max(0.0, last.ended_at + policy.cooldown_seconds - now)


def decide(
    state: RolloutState, policy: RolloutPolicy, finding: Finding, *, now: float, health: Health | None = None
) -> tuple[RolloutState, Decision]:
    """The next state and what to do. What protects users comes first: service level, rollback, expiry; then
    promotion."""
    share = _share(state, policy)
    if state.ended is not None:
        return state, Decision(
            state.ended, 1.0 if state.ended is Verdict.PROMOTE else 0.0, False, "the rollout is over"
        )
    if (bad := _unhealthy(policy, health)) is not None:
        return _end(state, Verdict.ROLLBACK, now), Decision(Verdict.ROLLBACK, 0.0, False, bad)
    if finding.verdict is Verdict.ROLLBACK:
        return _end(state, Verdict.ROLLBACK, now), Decision(Verdict.ROLLBACK, 0.0, False, finding.reason)
    if finding.verdict is not Verdict.PROMOTE and now >= state.started_at + policy.deadline_seconds:
        reason = f"no decision within {policy.deadline_seconds:g} s; {finding.reason}"
        if policy.expire_to is Verdict.HOLD:
            return state, Decision(Verdict.EXPIRED, share, state.step >= 0, reason)
        return _end(state, Verdict.EXPIRED, now), Decision(Verdict.EXPIRED, 0.0, False, reason)
    if finding.verdict is Verdict.BROKEN_SPLIT:
        return state, Decision(Verdict.BROKEN_SPLIT, share, state.step >= 0, finding.reason)
    if state.paused:
        return state, Decision(Verdict.HOLD, share, state.step >= 0, "paused")
    if finding.verdict is Verdict.PROMOTE and _may_promote(state, policy, finding, now):
        if policy.approve_promotion and not state.promotion_approved:
            return state, Decision(Verdict.HOLD, share, True, f"{finding.reason}; promotion needs approval", True)
        return _end(state, Verdict.PROMOTE, now), Decision(Verdict.PROMOTE, 1.0, False, finding.reason)
    state, decision = _advance(state, policy, finding, now)
    dropped = tuple(c.candidate for c in finding.candidates if c.verdict is Verdict.ROLLBACK)
    return state, replace(decision, dropped=dropped)


def _advance(state: RolloutState, policy: RolloutPolicy, finding: Finding, now: float) -> tuple[RolloutState, Decision]:
    share, counted = _share(state, policy), state.step >= 0
    last = state.step + 1 == len(policy.steps)
    if last and policy.resalt_seconds is not None and now >= state.block_started_at + policy.resalt_seconds:
        reason = f"a fresh salt after {policy.resalt_seconds:g} s; {finding.reason}"
        return replace(state, block_started_at=now), Decision(Verdict.HOLD, share, True, reason, fresh_salt=True)
    if last or not _step_done(state, policy, finding.requests, now):
        return state, Decision(Verdict.HOLD, share, counted, finding.reason)
    following = policy.steps[state.step + 1]
    if following.approval and state.step + 1 not in state.approved_steps:
        reason = f"step {state.step + 1} ({following.share:g} of the traffic) needs approval"
        return state, Decision(Verdict.HOLD, share, counted, reason, True)
    state = replace(
        state, step=state.step + 1, step_started_at=now, requests_before_step=finding.requests, block_started_at=now
    )
    return state, Decision(
        Verdict.HOLD, following.share, True, f"step {state.step}: {following.share:g} of the traffic"
    )


def _share(state: RolloutState, policy: RolloutPolicy) -> float:
    return policy.steps[max(state.step, 0)].share


def _step_done(state: RolloutState, policy: RolloutPolicy, requests: int, now: float) -> bool:
    if state.step < 0:
        return now >= state.started_at + policy.warmup_seconds
    step = policy.steps[state.step]
    enough = requests - state.requests_before_step >= step.min_requests
    return enough and now >= state.step_started_at + step.min_seconds


def _may_promote(state: RolloutState, policy: RolloutPolicy, finding: Finding, now: float) -> bool:
    last = state.step == len(policy.steps) - 1
    return (
        state.step >= 0
        and (last or not policy.promote_at_last_step)
        and _step_done(state, policy, finding.requests, now)
    )


def _unhealthy(policy: RolloutPolicy, health: Health | None) -> str | None:
    if policy.max_bad_share is None or health is None or health.requests < max(1, policy.health_min_requests):
        return None
    found = health.bad / health.requests
    if found <= policy.max_bad_share:
        return None
    limit = f"at most {policy.max_bad_share:.2%} allowed"
    return f"service level: {found:.2%} of {health.requests} requests are bad in all arms together, {limit}"


def _end(state: RolloutState, verdict: Verdict, now: float) -> RolloutState:
    return replace(state, ended=verdict, ended_at=now)
