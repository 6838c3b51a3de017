"""What is shown of an endpoint's control: plain data, from which `--json`, the terminal and dashboards take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raymlops.registry.values import finite
from raymlops.rollout.course import Course
from raymlops.rollout.totals import Counts, quantile
from raymlops.rollout.trial import Rollout

if TYPE_CHECKING:
    from raymlops.rollout.conductor import Conductor
    from raymlops.rollout.parts import Parts


def status_of(parts: Parts, now: float, trouble: str) -> dict[str, Any]:
    """Everything that the controller knows. Seconds and log-e-values are floats, absent numbers None."""
    steering, outside = parts.steering, parts.outside
    conductor, document = steering.conductor, steering.published
    error = steering.error or trouble or None
    state = "degraded" if error is not None and steering.phase == "active" else steering.phase
    replicas = parts.presence.live(now)
    order = None if document is None else document.order
    rollout = None if conductor.rollout is None else rollout_status(conductor.rollout, parts, now)
    found = {
        "endpoint": conductor.endpoint,
        "controller": {
            "state": state,
            "error": error,
            "term": conductor.term,
            "entry": conductor.n,
            "identity": steering.identity,
            "owed": sorted(conductor.tasks),
            "failing": dict(outside.errors),
            "lost_reports": conductor.lost_reports,
        },
        "champion": None if conductor.champion is None else asdict(conductor.champion),
        "alias": _alias(conductor.alias, conductor.alias_owed(), outside.alias),
        "document": None if document is None else {"term": document.term, "version": document.version},
        "replicas": [
            {"id": r.id, "build": r.build, "follows": r.known == order, "loaded": sorted(r.loaded), "failed": r.failed}
            for r in replicas
        ],
        "traffic": _traffic(conductor, rollout),
        "rollout": rollout,
        "last": conductor.last,
        "cooldown_left_s": _cooldown_left(conductor.last, parts.settings.rollout.cooldown_seconds, now),
    }
    return dict(finite(found))


def _traffic(conductor: Conductor, rollout: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Counts by variant: of the rollout while its candidates have traffic, else of the champion since the last one."""
    if rollout is not None and conductor.rollout is not None and conductor.rollout.phase not in ("starting", "ending"):
        return [{"variant": row["arm"], **row} for row in rollout["arms"]]
    version = None if conductor.champion is None else conductor.champion.version
    return [{"variant": "champion", "version": version, "share": 1.0, **_counts(conductor.totals.of_arm(0))}]


def _alias(recorded: str | None, owed: str | None, seen: str | None) -> dict[str, Any]:
    note = None
    if owed is not None:
        note = f"is being moved to version {owed}"
    elif seen is not None and seen != recorded:
        note = f"somebody moved it to version {seen}; traffic goes on to version {recorded}, which the ledger names"
    return {"recorded": recorded, "seen": seen, "note": note}


def _cooldown_left(last: dict[str, Any] | None, seconds: float, now: float) -> float:
    if last is None or last["verdict"] != "ROLLBACK" or last["cause"] == "order" or last["mode"] == "shadow":
        return 0.0
    return max(0.0, float(last["at"]) + seconds - now)


def rollout_status(rollout: Rollout, parts: Parts, now: float) -> dict[str, Any]:
    course, policy = rollout.course, rollout.policy
    apps = parts.deployer.status()
    candidates = [
        {
            "candidate": number,
            "version": c.model.version,
            "sha256": c.model.sha256,
            "app": c.app,
            "state": "dropped" if number in rollout.dropped else apps.get(c.app, ("", ""))[0] if c.app else "resident",
            "reason": rollout.dropped.get(number) or (apps.get(c.app, ("", ""))[1] if c.app else ""),
        }
        for number, c in enumerate(rollout.candidates, start=1)
    ]
    arms = ["champion", *(f"candidate-{number}" for number in range(1, len(candidates) + 1))]
    versions = [rollout.control.version, *(c.model.version for c in rollout.candidates)]
    if rollout.phase == "baking":
        arms = ["previous", "champion"]
        versions = [rollout.control.version, rollout.promoted_model.version]
    found: dict[str, Any] = {
        "id": rollout.base_id,
        "mode": rollout.mode,
        "phase": rollout.phase,
        "by": rollout.by,
        "started_at": rollout.started_at,
        "seconds": now - rollout.started_at,
        "attempt": rollout.attempt,
        "alpha": rollout.config.alpha,
        "paused": list(rollout.paused),
        "waiting": rollout.waiting,
        "held": rollout.held,
        "candidates": candidates,
        "steps": [step.share for step in policy.steps],
        "arms": [],
        "evidence": [],
        "reason": None,
    }
    totals = rollout.shadow if course is None else course.totals
    shares = () if course is None else course.shares
    found["arms"] = [
        {"arm": name, "version": version, "share": _share(number, shares), **_counts(totals.of_arm(number))}
        for number, (name, version) in enumerate(zip(arms, versions, strict=True))
    ]
    found.update(_time(rollout, course, now))
    if course is not None:
        found.update(_evidence(course))
    return found


def _share(arm: int, shares: tuple[float, ...]) -> float | None:
    if not shares:
        return None
    return round(1.0 - sum(shares), 6) if arm == 0 else shares[arm - 1]


def _counts(counts: Counts) -> dict[str, Any]:
    values = {name: counts.values[name] for name in counts.values if name != "difference"}
    shown: dict[str, Any] = {name: int(n) for name, n in values.items()}
    compared = counts.values["compared"]
    shown["mean_difference"] = counts.values["difference"] / compared if compared else None
    for q in (0.5, 0.95, 0.99):
        shown[f"p{q * 100:g}_s"] = quantile(counts.latency, q)
    return shown


def _time(rollout: Rollout, course: Course | None, now: float) -> dict[str, Any]:
    policy = rollout.policy
    found: dict[str, Any] = {"step": None, "step_left_s": None, "deadline_left_s": None, "bake_left_s": None}
    if rollout.phase == "baking":
        if rollout.promoted_at is not None:
            found["bake_left_s"] = max(0.0, rollout.promoted_at + rollout.config.bake_seconds - now)
        return found
    begun = rollout.started_at if course is None else course.state.started_at
    found["deadline_left_s"] = max(0.0, begun + policy.deadline_seconds - now)
    if course is not None:
        state = course.state
        found["step"] = state.step
        least = policy.warmup_seconds if state.step < 0 else policy.steps[state.step].min_seconds
        found["step_left_s"] = max(0.0, (begun if state.step < 0 else state.step_started_at) + least - now)
    return found


def _latency_limits(course: Course) -> dict[str, list[float]]:
    """Metric → seconds above which a request is slow, in control and in a candidate; nothing without a threshold."""
    rules = course.latency_rules if course.frozen else ()
    return {rule.metric: [rule.limit(candidate=False), rule.limit(candidate=True)] for rule in rules}


def _evidence(course: Course) -> dict[str, Any]:
    finding = course.finding
    found: dict[str, Any] = {
        "counted": course.counted,
        "epoch": course.evidence.assignment.current.number,
        "latency_limits_s": _latency_limits(course),
        "refused_reports": course.refused,
    }
    if finding is None:
        return found
    display = course.evidence.display()
    found["evidence"] = [
        {
            "candidate": c.candidate,
            "verdict": str(c.verdict),
            "blame": c.blame,
            "metrics": [
                {
                    "metric": m.metric,
                    "log_e_rollback": m.log_e_rollback,
                    "rollback_at": finding.rollback_log_threshold,
                    "log_e_promotion": m.log_e_promotion,
                    "promotion_at": finding.promotion_log_threshold,
                    "void": m.void,
                    **display[m.metric][c.candidate - 1],
                }
                for m in c.metrics
            ],
        }
        for c in finding.candidates
    ]
    found["reason"] = finding.reason
    found["requests"] = finding.requests
    found["units"] = list(finding.unit_counts)
    found["skipped"] = finding.skipped
    found["refused_keys"] = finding.refused_keys
    found["log_e_split"] = finding.log_e_split
    return found
