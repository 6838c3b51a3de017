"""How a rollout ends, with the numbers that the ledger keeps of it."""

from __future__ import annotations

from typing import Any

from raymlops.rollout.course import Course
from raymlops.rollout.evidence import Verdict
from raymlops.rollout.trial import Rollout
from raymlops.rollout.views import Intent


def rollback(
    rollout: Rollout,
    cause: str,
    reason: str,
    now: float,
    *,
    taken: list[int] | None = None,
    verdict: Verdict = Verdict.ROLLBACK,
) -> Intent:
    """Take candidates back. `cause`: evidence, start, crash, load, health, order or deadline."""
    if taken is None:
        taken = [n for n in range(1, len(rollout.candidates) + 1) if n not in rollout.dropped]
    return Intent("rollback", {**ending(rollout, verdict, cause, reason), "taken": taken})


def ending(rollout: Rollout, verdict: Verdict, cause: str, reason: str) -> dict[str, Any]:
    course = rollout.course
    finding = None if course is None else course.finding
    blame: list[str] = []
    if course is not None and finding is not None:
        blame = [course.blame(c.candidate)[0] for c in finding.candidates if c.blame is not None]
    return {
        "verdict": str(verdict),
        "cause": cause,
        "reason": reason,
        "blame": blame[0] if blame and cause == "evidence" else None,
        "phase": rollout.phase,
        "numbers": {} if course is None else numbers(course),
    }


def numbers(course: Course) -> dict[str, Any]:
    """What the ledger keeps of the evidence at a decision."""
    finding = course.finding
    if finding is None:
        return {}
    return {
        "now": finding.now,
        "requests": finding.requests,
        "units": list(finding.unit_counts),
        "thresholds": [finding.rollback_log_threshold, finding.promotion_log_threshold],
        "log_e_split": finding.log_e_split,
        "candidates": [
            {
                "candidate": c.candidate,
                "verdict": str(c.verdict),
                "blame": c.blame,
                "metrics": {m.metric: [m.log_e_rollback, m.log_e_promotion, m.void] for m in c.metrics},
            }
            for c in finding.candidates
        ],
        "arms": [_arm(course, arm) for arm in range(course.evidence.config.candidates + 1)],
    }


def _arm(course: Course, arm: int) -> dict[str, int]:
    values = course.totals.of_arm(arm).values
    return {name: int(values[name]) for name in ("requests", "errors", "timeouts", "fallbacks")}
