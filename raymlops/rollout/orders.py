"""What somebody may order, and when it is refused. An order becomes one entry of the ledger, like every decision."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from raymlops.errors import Refused
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.decisions import promotion
from raymlops.rollout.endings import rollback
from raymlops.rollout.settings import MODES, EndpointSettings, Mode, policy_of
from raymlops.rollout.trial import ORDER, Candidate, Rollout
from raymlops.rollout.views import Intent, View
from raymlops.serving.document import ModelRef, candidate_app


def begin(
    conductor: Conductor,
    settings: EndpointSettings,
    models: Sequence[ModelRef],
    *,
    mode: str,
    force: bool,
    by: str,
    now: float,
    tags: Sequence[str | None] = (),
    sizes: Sequence[int] = (),
    changes: Sequence[Sequence[str]] = (),
) -> Intent:
    """The start of a rollout of staged models. `tags` are what the registry says of each about earlier rollouts,
    `sizes` their packages' bytes, `changes` why requests as they are now would not do for it.

    Raises Refused when one is under way and for the champion itself; and, unless `force` is given, during the cooldown,
    for versions that were rolled back, and for those that want other requests. Raises ConfigError when the policy
    cannot be.
    """
    if mode not in MODES:
        raise Refused(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    chosen: Mode = mode
    if not models:
        raise Refused("expected at least one version to roll out")
    if conductor.champion is None:
        raise Refused(f"{settings.name}: no champion is known yet")
    if conductor.rollout is not None:
        raise Refused(f"rollout {conductor.rollout.base_id} is under way ({conductor.rollout.phase}); abort it first")
    if len({model.sha256 for model in models}) < len(models):
        raise Refused("expected different versions")
    for model in models:
        if model.sha256 == conductor.champion.sha256:
            raise Refused(f"version {model.version} is the champion already")
    if not force:
        _check_history(conductor, settings, models, tags, now)
        for model, changed in zip(models, changes, strict=False):
            if changed:
                raise Refused(
                    f"version {model.version} wants other requests than version {conductor.champion.version}: "
                    f"{'; '.join(changed)}. --force starts anyway: the champion answers what the candidate cannot "
                    "read, and after a promotion such requests are refused"
                )
    policy_of(settings.rollout, chosen)
    isolated = settings.serving.candidate.placement == "isolated"
    known = dict(zip((model.sha256 for model in models), sizes, strict=False))
    candidates = [
        Candidate(m, candidate_app(conductor.endpoint, m) if isolated else None, known.get(m.sha256, 0)) for m in models
    ]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return Intent(
        "started",
        {
            "id": f"{stamp}-{secrets.token_hex(3)}",
            "mode": chosen,
            "candidates": [candidate.to_dict() for candidate in candidates],
            "control": vars(conductor.champion),
            "config": settings.rollout.model_dump(mode="json"),
            "request_timeout": settings.serving.limits.timeout_s,
            "by": by,
            "forced": force,
        },
    )


def _check_history(
    conductor: Conductor,
    settings: EndpointSettings,
    models: Sequence[ModelRef],
    tags: Sequence[str | None],
    now: float,
) -> None:
    for model, tag in zip(models, [*tags, *[None] * len(models)], strict=False):
        why = conductor.rolled_back.get(model.sha256)
        if why is None and tag is not None and tag.startswith("rolled back"):
            why = tag
        if why is not None:
            raise Refused(f"version {model.version} was rolled back before ({why}); --force tries it again")
    last = conductor.last
    if last is None or last["verdict"] != "ROLLBACK" or last["cause"] == "order" or last["mode"] == "shadow":
        return
    left = last["at"] + settings.rollout.cooldown_seconds - now
    if left > 0:
        raise Refused(f"cooldown after the rollback of {last['id']}: {left:.0f} s left; --force starts anyway")


def pause(conductor: Conductor, by: str) -> Intent:
    """Raises Refused when nothing is, or will be, compared."""
    rollout = _under_way(conductor)
    if rollout.phase not in ("starting", "running") or rollout.mode == "shadow":
        raise Refused(f"rollout {rollout.base_id} is {_what(rollout)}, there is nothing to pause")
    if ORDER in rollout.paused:
        raise Refused(f"rollout {rollout.base_id} is paused already")
    return Intent("paused", {"because": ORDER, "by": by})


def resume(conductor: Conductor, by: str, now: float) -> Intent:
    """Ends a pause, or approves the step or promotion that waits. Raises Refused when nothing waits."""
    rollout = _under_way(conductor)
    course = rollout.course
    if ORDER in rollout.paused:
        return Intent("resumed", {"because": ORDER, "by": by})
    if rollout.phase == "running" and course is not None:
        _, decision = course.judge(rollout.policy, now)
        if decision.waits_for_approval:
            promotes = course.finding is not None and str(course.finding.verdict) == "PROMOTE"
            promotes = promotes and course.state.step == len(rollout.policy.steps) - 1
            return Intent("approved", {"step": None if promotes else course.state.step + 1, "by": by})
    raise Refused(f"rollout {rollout.base_id} neither is paused nor waits for approval")


def promote(conductor: Conductor, view: View, by: str, candidate: int | None = None) -> Intent:
    """Promotes now, whatever the evidence says. Raises Refused when that is under way or cannot be."""
    rollout = _under_way(conductor)
    if rollout.phase != "running":
        raise Refused(f"rollout {rollout.base_id} is {_what(rollout)}")
    if candidate is None and len(rollout.candidates) > 1:
        raise Refused(f"name the candidate, 1 to {len(rollout.candidates)}")
    chosen = candidate or 1
    if not 1 <= chosen <= len(rollout.candidates) or chosen in rollout.dropped:
        raise Refused(f"candidate {chosen} is not part of rollout {rollout.base_id}")
    intent = promotion(conductor, rollout, view, by=by, candidate=chosen)
    if intent is None or intent.kind != "promotion":
        raise Refused(rollout.waiting if intent is None else intent.payload["reason"])
    return intent


def abort(conductor: Conductor, reason: str, by: str, now: float) -> Intent:
    """Takes the candidates back; while a promoted one bakes, the old champion comes back."""
    rollout = _under_way(conductor)
    if rollout.phase == "ending":
        raise Refused(f"rollout {rollout.base_id} is {_what(rollout)}")
    taken = [rollout.promoting] if rollout.phase == "baking" and rollout.promoting else None
    intent = rollback(rollout, "order", reason, now, taken=taken)
    return Intent(intent.kind, {**intent.payload, "by": by})


def _under_way(conductor: Conductor) -> Rollout:
    if conductor.rollout is None:
        raise Refused(f"{conductor.endpoint}: no rollout is under way")
    return conductor.rollout


def _what(rollout: Rollout) -> str:
    words: dict[str, str] = {
        "starting": "starting its candidates",
        "running": "running",
        "staging": "being promoted",
        "baking": "promoted already",
        "ending": "being taken back",
    }
    return words[rollout.phase]


def settle(conductor: Conductor, settings: EndpointSettings) -> Intent | None:
    """The first entry of a new ledger: the version that the application was built with."""
    if conductor.champion is not None or settings.champion is None:
        return None
    payload: dict[str, Any] = {"champion": vars(settings.champion)}
    return Intent("champion", payload)
