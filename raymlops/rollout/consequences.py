"""What each kind of ledger entry makes true of a conductor's state, and what the world is owed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raymlops.chain import Entry
from raymlops.rollout.course import Course
from raymlops.rollout.evidence import EvidenceConfig
from raymlops.rollout.joining import LabelJoin
from raymlops.rollout.policy import RolloutState
from raymlops.rollout.settings import label_rules
from raymlops.rollout.totals import Totals
from raymlops.rollout.trial import ORDER, Rollout, Task
from raymlops.serving.document import ModelRef

if TYPE_CHECKING:
    from raymlops.rollout.conductor import Conductor


def apply(conductor: Conductor, entry: Entry) -> None:
    """Deterministic: recovery applies the same entries again."""
    CONSEQUENCES[entry.kind](conductor, entry, entry.payload)


def _term(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    conductor.begin_term(entry.term)


def _champion(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    conductor.champion = ModelRef(**payload["champion"])
    conductor.alias = conductor.champion.version


def _started(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    assert conductor.champion is not None
    conductor.rollout = Rollout.from_start(entry.at, conductor.champion, payload)
    conductor.warm = None
    _owe(conductor, "notify", "started", _event(conductor, "started", entry))


def _running(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout = _rollout(conductor)
    rollout.phase = "running"
    _drop(conductor, rollout, payload["dropped"])
    if rollout.mode != "shadow":
        for candidate in rollout.candidates:
            sha256 = candidate.model.sha256
            conductor.attempts[sha256] = conductor.attempts.get(sha256, 0) + 1
        rollout.attempt = payload["attempt"]
        rollout.course = _new_course(conductor, rollout, rollout.evidence_config(), entry.at, list(conductor.latencies))
        rollout.course.open_block(tuple(payload["shares"]), payload["salt"], entry.at, counted=False)
        rollout.course.state = rollout.course.state.pause(ORDER in rollout.paused)


def _step(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout, course = _rollout(conductor), _course(conductor)
    course.state = RolloutState.from_dict(payload["state"])
    _drop(conductor, rollout, payload["dropped"])
    shares = tuple(payload["shares"])
    if payload["salt"] is not None:
        course.open_block(shares, payload["salt"], entry.at, counted=_counts(rollout, course))
    else:
        course.open_epoch(shares, entry.at)
    rollout.waiting = None


def _paused(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout, course = _rollout(conductor), _rollout(conductor).course
    rollout.paused = tuple(sorted({*rollout.paused, payload["because"]}))
    if course is None:
        return  # before candidates run
    if payload["because"] == ORDER:
        course.state = course.state.pause()
    course.open_epoch(course.shares, entry.at, counted=False)


def _resumed(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout, course = _rollout(conductor), _rollout(conductor).course
    rollout.paused = tuple(reason for reason in rollout.paused if reason != payload["because"])
    if course is None:
        return
    if payload["because"] == ORDER:
        course.state = course.state.pause(False)
    course.open_epoch(course.shares, entry.at, counted=_counts(rollout, course))


def _counts(rollout: Rollout, course: Course) -> bool:
    """Neither in a pause nor in the warm-up."""
    return not rollout.paused and course.state.step >= 0


def _waiting(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    _rollout(conductor).waiting = payload["reason"]
    _owe(conductor, "notify", f"waiting-{entry.n}", _event(conductor, "waiting", entry))


def _held(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    _rollout(conductor).held = payload["reason"]
    _owe(conductor, "notify", f"held-{entry.n}", _event(conductor, "held", entry))


def _approved(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    course, step = _course(conductor), payload["step"]
    course.state = course.state.approve_promotion() if step is None else course.state.approve(step)
    _rollout(conductor).waiting = None


def _promotion(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout = _rollout(conductor)
    rollout.phase, rollout.promoting, rollout.phase_at = "staging", payload["candidate"], entry.at


def _promoting(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout = _rollout(conductor)
    rollout.phase, rollout.phase_at, rollout.paused = "baking", entry.at, ()
    conductor.champion = rollout.promoted_model
    share, course = payload["share"], rollout.course
    if share is None:
        rollout.course = None
    elif payload["salt"] is None:
        assert course is not None
        course.open_epoch((max(share, course.shares[0]),), entry.at)
    else:
        seed = course.thresholds if course is not None else list(conductor.latencies)
        rollout.id = payload["id"]
        rollout.course = _new_course(conductor, rollout, rollout.evidence_config(baking=True), entry.at, seed)
        rollout.course.state = replace(rollout.course.state, step=0)
        rollout.course.open_block((share,), payload["salt"], entry.at, counted=True)


def _promoted(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    _rollout(conductor).promoted_at = entry.at
    _owe(conductor, "notify", "promoted", _event(conductor, "promoted", entry))


def _alias(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    conductor.alias = payload["version"]


def _rollback(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout = _rollout(conductor)
    if rollout.phase == "baking":
        conductor.champion = rollout.control
    _end(conductor, rollout, entry, payload)
    rollout.phase, rollout.phase_at = "ending", entry.at
    if rollout.mode == "shadow" and payload["cause"] in ("order", "deadline"):
        return
    for number in payload["taken"]:
        model = rollout.candidates[number - 1].model
        _take_back(conductor, rollout, model, f"{payload['cause']}: {payload['reason']}")


def _rolled_back(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    conductor.rollout = None


def _finished(conductor: Conductor, entry: Entry, payload: dict[str, Any]) -> None:
    rollout = _rollout(conductor)
    _end(conductor, rollout, entry, payload)
    conductor.warm, conductor.rollout = rollout.control, None


def _rollout(conductor: Conductor) -> Rollout:
    assert conductor.rollout is not None, "no rollout"
    return conductor.rollout


def _course(conductor: Conductor) -> Course:
    course = _rollout(conductor).course
    assert course is not None, "nothing is compared"
    return course


def _new_course(conductor: Conductor, rollout: Rollout, config: EvidenceConfig, now: float, seed: Any) -> Course:
    return Course.begin(
        config, now, LabelJoin(label_rules(rollout.config), classes=conductor.task != "regression"), seed
    )


def _drop(conductor: Conductor, rollout: Rollout, dropped: Mapping[str, str]) -> None:
    """Candidates that are taken out while others go on: number → why."""
    for number, reason in dropped.items():
        rollout.dropped[int(number)] = reason
        _take_back(conductor, rollout, rollout.candidates[int(number) - 1].model, reason)


def _take_back(conductor: Conductor, rollout: Rollout, model: ModelRef, reason: str) -> None:
    conductor.rolled_back[model.sha256] = reason
    payload = {"name": model.name, "version": model.version, "text": f"rolled back: {reason}"}
    _owe(conductor, "tag", f"{rollout.base_id}-v{model.version}", payload)


def _end(conductor: Conductor, rollout: Rollout, entry: Entry, payload: dict[str, Any]) -> None:
    conductor.last = {
        "id": rollout.base_id,
        "mode": rollout.mode,
        "at": entry.at,
        "versions": [c.model.version for c in rollout.candidates],
        **{name: payload[name] for name in ("verdict", "cause", "reason", "blame")},
    }
    conductor.ended[payload["verdict"]] = conductor.ended.get(payload["verdict"], 0) + 1
    conductor.totals = Totals()
    _owe(conductor, "notify", f"{rollout.base_id}-end", _event(conductor, entry.kind, entry))
    _owe(conductor, "run", rollout.base_id, {"rollout": rollout.base_id, "end": conductor.last})


def _event(conductor: Conductor, kind: str, entry: Entry) -> dict[str, Any]:
    rollout = _rollout(conductor)
    versions = [c.model.version for c in rollout.candidates]
    head = {"event": kind, "endpoint": conductor.endpoint, "rollout": rollout.base_id, "at": entry.at, "entry": entry.n}
    return {**head, "versions": versions, "mode": rollout.mode, "details": entry.payload}


def _owe(conductor: Conductor, kind: str, name: str, payload: dict[str, Any]) -> None:
    conductor.tasks[f"{kind}:{name}"] = Task(kind, payload)


CONSEQUENCES: dict[str, Callable[[Conductor, Entry, dict[str, Any]], None]] = {
    "term": _term,
    "champion": _champion,
    "started": _started,
    "running": _running,
    "step": _step,
    "paused": _paused,
    "resumed": _resumed,
    "waiting": _waiting,
    "held": _held,
    "approved": _approved,
    "promotion": _promotion,
    "promoting": _promoting,
    "promoted": _promoted,
    "alias": _alias,
    "rollback": _rollback,
    "rolled_back": _rolled_back,
    "finished": _finished,
}
"""By kind of entry."""
