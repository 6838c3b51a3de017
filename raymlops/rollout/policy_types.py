"""The configuration of a rollout's course, its state, and what is decided. Rules are in `policy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from raymlops.errors import ConfigError
from raymlops.rollout.evidence.verdict import Verdict


@dataclass(frozen=True)
class Step:
    """A stretch of the rollout at one share of traffic."""

    share: float
    """Of each candidate."""
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
    resalt_seconds: float | None = None
    """At the last step: open a block with a fresh salt so often, so that keys count again. For few heavy keys."""
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
            least_of = [(step.min_seconds, step.min_requests) for step in self.steps]
            problems.append(f"steps: expected min_seconds and min_requests of at least 0, found {least_of}")
        least = self.warmup_seconds + sum(step.min_seconds for step in self.steps)
        for name in ("warmup_seconds", "cooldown_seconds", "health_min_requests"):
            if getattr(self, name) < 0:
                problems.append(f"{name}: expected at least 0, found {getattr(self, name):g}")
        if self.deadline_seconds <= least:
            problems.append(
                f"deadline_seconds: expected above {least:g} (warm-up and steps), found {self.deadline_seconds:g}"
            )
        if self.expire_to not in (Verdict.ROLLBACK, Verdict.HOLD):
            problems.append(f"expire_to: expected ROLLBACK or HOLD, found {self.expire_to}")
        if self.resalt_seconds is not None and self.resalt_seconds <= 0.0:
            problems.append(f"resalt_seconds: expected seconds above 0, found {self.resalt_seconds:g}")
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
    block_started_at: float = 0.0
    approved_steps: tuple[int, ...] = ()
    promotion_approved: bool = False
    paused: bool = False
    ended: Verdict | None = None
    ended_at: float | None = None

    def approve(self, step: int) -> RolloutState:
        """Records that somebody agreed to the step (0 is the first)."""
        return replace(self, approved_steps=tuple(sorted({*self.approved_steps, step})))

    def approve_promotion(self) -> RolloutState:
        """Records that somebody agreed to the promotion."""
        return replace(self, promotion_approved=True)

    def pause(self, paused: bool = True) -> RolloutState:
        """Stops steps and promotion, or lets them go on. Rollback, service level and deadline stay in force."""
        return replace(self, paused=paused)

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
    fresh_salt: bool = False
    """Open a new block (`RolloutEvidence.open_block`) with these shares."""
    dropped: tuple[int, ...] = ()
    """With several candidates: those that are worse while others go on. Their share has to become 0, which takes a new
    block."""
