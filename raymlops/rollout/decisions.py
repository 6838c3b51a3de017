"""The next entry of the ledger, from the state, what is seen of the endpoint, and the clock. Rules, one per phase."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raymlops.rollout.course import Course
from raymlops.rollout.endings import ending, numbers, rollback
from raymlops.rollout.evidence import Verdict
from raymlops.rollout.policy import Decision, RolloutState
from raymlops.rollout.settings import shares_of
from raymlops.rollout.trial import UPDATE, Rollout
from raymlops.rollout.views import Intent, View

if TYPE_CHECKING:
    from raymlops.rollout.conductor import Conductor

START_SECONDS = 300.0
"""Time for candidates to start and answer a probe."""
STAGE_SECONDS = 300.0
"""Time for every replica to load a model that is promoted."""
ACK_SECONDS = 10.0
"""Time in which a rollback waits for replicas to say that they follow; it happened before that."""
SETTLED_SECONDS = 2.0
"""After an update of the endpoint: how long only one build has to be seen until the comparison goes on."""
MEMORY_FACTOR, MEMORY_SPARE = 3, 64 * 1024 * 1024
"""Free memory that a replica needs to load a package: so many times its size, and this many bytes."""


def decide(conductor: Conductor, now: float, view: View) -> Intent | None:
    rollout = conductor.rollout
    if rollout is None:
        return None
    return {
        "starting": _starting,
        "running": _running,
        "staging": _staging,
        "baking": _baking,
        "ending": _ending,
    }[rollout.phase](conductor, rollout, now, view)


def _starting(conductor: Conductor, rollout: Rollout, now: float, view: View) -> Intent | None:
    status = {number: _status(rollout, number, view) for number in range(1, len(rollout.candidates) + 1)}
    if now >= rollout.started_at + START_SECONDS:
        late = f"did not start within {START_SECONDS:g} s"
        status = {n: s if s[0] == "ready" else ("failed", s[1] or late) for n, s in status.items()}
    failed = {str(n): f"candidate {n} failed to start: {why}" for n, (what, why) in status.items() if what == "failed"}
    if len(failed) == len(status):
        return rollback(rollout, "start", "; ".join(failed.values()), now)
    if any(what == "starting" for what, _ in status.values()):
        return None
    if rollout.mode == "shadow":
        return Intent("running", {"dropped": failed})
    dropped = frozenset(int(n) for n in failed)
    return Intent(
        "running",
        {
            "dropped": failed,
            "attempt": 1 + max(conductor.attempts.get(c.model.sha256, 0) for c in rollout.candidates),
            "shares": shares_of(rollout.policy.steps[0].share, dropped, len(rollout.candidates)),
            "salt": secrets.token_hex(8),
        },
    )


def _status(rollout: Rollout, number: int, view: View) -> tuple[str, str]:
    candidate = rollout.candidates[number - 1]
    if number in rollout.dropped:
        return "failed", rollout.dropped[number]
    if candidate.app is not None:
        return view.apps.get(candidate.app, ("starting", ""))
    if (why := view.load_failures(candidate.model.sha256)) is not None:
        return "failed", why
    return ("ready", "") if view.loaded(candidate.model.sha256) else ("starting", "")


def _crashed(rollout: Rollout, now: float, view: View) -> Intent | None:
    """Candidates that broke down while they had traffic."""
    numbers = [n for n in range(1, len(rollout.candidates) + 1) if n not in rollout.dropped]
    found = {n: why for n in numbers for what, why in [_status(rollout, n, view)] if what == "failed"}
    if not found:
        return None
    reasons = {n: f"candidate {n} does not run any more: {why}" for n, why in found.items()}
    if len(found) == len(numbers) or rollout.course is None:
        return rollback(rollout, "crash", "; ".join(reasons.values()), now, taken=list(found))
    return _step(rollout, rollout.course, rollout.course.state, reasons)


def _running(conductor: Conductor, rollout: Rollout, now: float, view: View) -> Intent | None:
    if (intent := _crashed(rollout, now, view)) is not None:
        return intent
    course = rollout.course
    if course is None:
        if now >= rollout.started_at + rollout.policy.deadline_seconds:
            return rollback(rollout, "deadline", "shadow mode came to its deadline", now, verdict=Verdict.EXPIRED)
        return None
    state, decision = course.judge(rollout.policy, now)
    intent = _ended(rollout, course, decision, now)
    if intent is not None:
        return intent
    if (intent := _update(rollout, view)) is not None:
        return intent
    if decision.verdict is Verdict.BROKEN_SPLIT:
        return Intent("held", {"reason": decision.reason}) if rollout.held != decision.reason else None
    if rollout.paused:
        return None
    if decision.verdict is Verdict.PROMOTE:
        return promotion(conductor, rollout, view, by="evidence")
    found = [n for n in decision.dropped if n not in rollout.dropped]
    dropped = {n: f"evidence: candidate {n} is worse in {', '.join(course.blame(n))}" for n in found}
    if state.step != course.state.step or dropped or decision.fresh_salt:
        return _step(rollout, course, state, dropped, fresh_salt=decision.fresh_salt)
    if decision.waits_for_approval and rollout.waiting != decision.reason:
        return Intent("waiting", {"reason": decision.reason})
    return None


def _ended(rollout: Rollout, course: Course, decision: Decision, now: float) -> Intent | None:
    if decision.verdict is Verdict.EXPIRED:
        return rollback(rollout, "deadline", decision.reason, now, verdict=Verdict.EXPIRED)
    if decision.verdict is Verdict.ROLLBACK:
        assert course.finding is not None
        if decision.reason != course.finding.reason:
            return rollback(rollout, "health", decision.reason, now)
        blamed = [(c.candidate, course.blame(c.candidate)) for c in course.finding.candidates]
        reason = "; ".join(f"candidate {number} is worse in {', '.join(metrics)}" for number, metrics in blamed)
        return rollback(rollout, "evidence", reason, now)
    return None


def _update(rollout: Rollout, view: View) -> Intent | None:
    """An update of the endpoint itself: while replicas of two builds answer, nothing is compared."""
    mixed = len(view.builds) > 1
    if mixed and UPDATE not in rollout.paused:
        return Intent("paused", {"because": UPDATE, "by": f"replicas of {len(view.builds)} builds answer"})
    if UPDATE in rollout.paused and len(view.builds) == 1 and view.settled_s >= SETTLED_SECONDS:
        return Intent("resumed", {"because": UPDATE, "by": "all replicas are of one build"})
    return None


def _step(
    rollout: Rollout,
    course: Course,
    state: RolloutState,
    dropped: Mapping[int, str],
    *,
    fresh_salt: bool = False,
) -> Intent:
    """New shares. A share that falls, as a dropped candidate's does, needs a fresh salt."""
    out = frozenset({*rollout.dropped, *dropped})
    share = rollout.policy.steps[max(state.step, 0)].share
    return Intent(
        "step",
        {
            "state": state.to_dict(),
            "step": state.step,
            "shares": shares_of(share, out, len(rollout.candidates)),
            "salt": secrets.token_hex(8) if dropped or fresh_salt else None,
            "dropped": {str(n): reason for n, reason in dropped.items()},
            "numbers": numbers(course),
        },
    )


def promotion(
    conductor: Conductor, rollout: Rollout, view: View, *, by: str, candidate: int | None = None
) -> Intent | None:
    """Begin to promote, or say why it has to wait: every replica needs memory for one more model."""
    course = rollout.course
    chosen = candidate or (course.finding.promoted if course is not None and course.finding is not None else None) or 1
    short = memory_short(rollout, chosen, view)
    if short is not None:
        return None if rollout.waiting == short else Intent("waiting", {"reason": short})
    found = numbers(course) if course is not None else {}
    return Intent("promotion", {"candidate": chosen, "by": by, "numbers": found})


def memory_short(rollout: Rollout, candidate: int, view: View) -> str | None:
    """Why a replica's machine could not hold one more model, None if all can."""
    model, size = rollout.candidates[candidate - 1].model, rollout.candidates[candidate - 1].size
    each = size * MEMORY_FACTOR + MEMORY_SPARE
    for node in {replica.node for replica in view.replicas}:
        here = [r for r in view.replicas if r.node == node and model.sha256 not in r.loaded]
        free = [r.memory for r in here if r.memory is not None]
        if free and min(free) < each * len(here):
            return f"promotion needs {each * len(here) >> 20} MiB more memory for {len(here)} replica(s) on one machine"
    return None


def _staging(conductor: Conductor, rollout: Rollout, now: float, view: View) -> Intent | None:
    assert rollout.promoting is not None
    sha256, course = rollout.promoted_model.sha256, rollout.course
    why = view.load_failures(sha256)
    if why is None and now >= rollout.phase_at + STAGE_SECONDS:
        why = f"not every replica loaded it within {STAGE_SECONDS:g} s"
    if why is not None:
        return rollback(rollout, "load", why, now, taken=[rollout.promoting])
    if course is not None and (bad := course.watch(rollout.policy, rollout.promoting, now)) is not None:
        return rollback(rollout, *bad, now, taken=[rollout.promoting])
    if not view.loaded(sha256):
        return None
    config = rollout.config
    share = 1.0 - config.holdback if config.holdback > 0.0 and config.bake_seconds > 0.0 else None
    goes_on = course is not None and len(rollout.candidates) == 1
    again = {"salt": secrets.token_hex(8), "id": f"{rollout.base_id}+bake"}
    return Intent(
        "promoting",
        {
            "candidate": rollout.promoting,
            "version": rollout.promoted_model.version,
            "share": share,
            **({"salt": None} if goes_on else again),
            "replicas": len(view.replicas),
        },
    )


def _baking(conductor: Conductor, rollout: Rollout, now: float, view: View) -> Intent | None:
    assert rollout.promoting is not None
    course = rollout.course
    if course is not None and (bad := course.watch(rollout.policy, 1, now)) is not None:
        return rollback(rollout, *bad, now, taken=[rollout.promoting])
    if course is not None and (intent := _update(rollout, view)) is not None:
        return intent
    if rollout.promoted_at is None:
        document = conductor.document()
        assert document is not None
        if not view.follow(document.order):
            return None
        return Intent("promoted", {"version": rollout.promoted_model.version, "replicas": len(view.replicas)})
    if now >= rollout.promoted_at + rollout.config.bake_seconds:
        reason = f"version {rollout.promoted_model.version} answers everything"
        return Intent("finished", ending(rollout, Verdict.PROMOTE, "promotion", reason))
    return None


def _ending(conductor: Conductor, rollout: Rollout, now: float, view: View) -> Intent | None:
    document = conductor.document()
    assert document is not None
    waited = max(0.0, now - rollout.phase_at)
    if not view.follow(document.order) and (view.replicas or not view.complete) and waited < ACK_SECONDS:
        return None
    following = sum(replica.known == document.order for replica in view.replicas)
    return Intent("rolled_back", {"replicas": len(view.replicas), "following": following, "seconds": round(waited, 3)})
