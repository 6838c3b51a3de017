"""What to do next in a rollout: a pure function of the state, the configuration, the clock and the evidence.

    state, decision = decide(state, policy, finding, now=…, health=…)

The controller acts on the decision (a share, a verdict) and stores the state. Shares only rise, except to zero at the
end, and nothing here looks at how many requests an arm got: the time of a step depends on the clock and on pooled
totals, as the validity of the evidence demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from raymlops.errors import ConfigError
from raymlops.rollout.evidence.verdict import Finding, Verdict


@dataclass(frozen=True)
class Step:
    """A stretch of the rollout at one share of traffic."""

    share: float
    min_seconds: float = 0.0
    min_requests: int = 0
    """Pooled requests, all arms together."""
    approval: bool = False
    """Somebody has to agree before this step begins."""


@dataclass(frozen=True)
class RolloutPolicy:
    """How a rollout proceeds. Raises ConfigError naming every field that is wrong."""

    steps: tuple[Step, ...] = (Step(0.05, 300.0), Step(0.10, 300.0), Step(0.25, 300.0), Step(0.50))
    warmup_seconds: float = 60.0
    """At the first share; nothing counts in it, in either arm."""
    deadline_seconds: float = 86_400.0
    expire_to: Verdict = Verdict.ROLLBACK
    """What EXPIRED does with the traffic: ROLLBACK gives it back to the champion, HOLD leaves the share as it is."""
    promote_at_last_step: bool = True
    """Promotion waits for the last step, so that the candidate has carried that load, even if the evidence is in
    before."""
    approve_promotion: bool = False
    cooldown_seconds: float = 3600.0
    """After a rollback no rollout may begin for so long."""
    max_bad_share: float | None = None
    """The absolute service level: share of bad requests, over both arms, above which the candidate gets no traffic. It
    is for what no comparison can see, an overload or a broken backend that hurts both arms alike."""
    health_min_requests: int = 200
    """Requests in the health window below which the service level is not judged."""

    def __post_init__(self) -> None:
        shares = [step.share for step in self.steps]
        problems = []
        if not shares:
            problems.append("steps: expected at least one step, found none")
        if any(not 0.0 < share < 1.0 for share in shares):
            problems.append(f"steps: expected shares above 0 and below 1, found {shares}")
        if shares != sorted(shares):
            problems.append(f"steps: expected shares that never fall, found {shares}")
        if any(step.min_seconds < 0 or step.min_requests < 0 for step in self.steps):
            problems.append("steps: expected min_seconds and min_requests of at least 0")
        least = self.warmup_seconds + sum(step.min_seconds for step in self.steps)
        if self.warmup_seconds < 0 or self.cooldown_seconds < 0:
            problems.append("warmup_seconds, cooldown_seconds: expected at least 0")
        if self.deadline_seconds <= least:
            problems.append(
                f"deadline_seconds: expected above {least:g} (warm-up and steps), found {self.deadline_seconds:g}"
            )
        if self.expire_to not in (Verdict.ROLLBACK, Verdict.HOLD):
            problems.append(f"expire_to: expected ROLLBACK or HOLD, found {self.expire_to}")
        if self.max_bad_share is not None and not 0.0 < self.max_bad_share < 1.0:
            problems.append(f"max_bad_share: expected a share between 0 and 1, found {self.max_bad_share:g}")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class RolloutState:
    """Where a rollout is. Times in seconds on the controller's clock; step -1 is the warm-up."""

    started_at: float
    step: int = -1
    step_started_at: float = 0.0
    requests_before_step: int = 0
    approved_steps: tuple[int, ...] = ()
    promotion_approved: bool = False
    paused: bool = False
    ended: Verdict | None = None
    ended_at: float | None = None

    def approve(self, step: int) -> RolloutState:
        """Records that somebody agreed to the step (0 is the first)."""
        return replace(self, approved_steps=tuple(sorted({*self.approved_steps, step})))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RolloutState:
        ended = data["ended"]
        approved = tuple(data["approved_steps"])
        return cls(**{**data, "approved_steps": approved, "ended": None if ended is None else Verdict(ended)})


@dataclass(frozen=True)
class Health:
    """All requests of a recent window, both arms together, and how many of them were bad."""

    requests: int
    bad: int


@dataclass(frozen=True)
class Decision:
    """What to do now: give the candidate `share` of the traffic, and end the rollout if `verdict` says so."""

    verdict: Verdict
    share: float
    counted: bool
    """False during warm-up: the epoch counts for nothing."""
    reason: str
    waits_for_approval: bool = False


def start(now: float) -> RolloutState:
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
    return _advance(state, policy, finding, now)


def _advance(state: RolloutState, policy: RolloutPolicy, finding: Finding, now: float) -> tuple[RolloutState, Decision]:
    share, counted = _share(state, policy), state.step >= 0
    if not _step_done(state, policy, finding.requests, now) or state.step + 1 == len(policy.steps):
        return state, Decision(Verdict.HOLD, share, counted, finding.reason)
    following = policy.steps[state.step + 1]
    if following.approval and state.step + 1 not in state.approved_steps:
        reason = f"step {state.step + 1} ({following.share:g} of the traffic) needs approval"
        return state, Decision(Verdict.HOLD, share, counted, reason, True)
    state = replace(state, step=state.step + 1, step_started_at=now, requests_before_step=finding.requests)
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
