"""What the world should look like, read off the state: the routing document and the candidates that run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from raymlops.rollout.settings import quality_of, rates_of
from raymlops.rollout.trial import Rollout
from raymlops.serving.document import RESOLUTION, Arm, ModelRef, RoutingDocument

if TYPE_CHECKING:
    from raymlops.rollout.conductor import Conductor


def routing(conductor: Conductor, champion: ModelRef) -> RoutingDocument:
    """The document, whose version is still to be given."""
    plain = RoutingDocument(conductor.endpoint, conductor.term, 0, champion)
    rollout = conductor.rollout
    if rollout is None:
        return replace(plain, resident=() if conductor.warm is None else (conductor.warm,))
    if rollout.phase == "starting":
        return replace(plain, resident=rollout.co_resident)
    if rollout.phase == "ending":
        return plain
    if rollout.phase == "baking" and rollout.course is None:
        return replace(plain, resident=(rollout.control,))
    plain = replace(plain, rollout=rollout.id, mode=rollout.mode, sample=rollout.config.shadow_sample)
    resident = [*rollout.co_resident]
    if rollout.phase == "staging" and rollout.promoted_model not in resident:
        resident.append(rollout.promoted_model)
    if rollout.phase == "baking":
        arms: tuple[Arm, ...] = (Arm(rollout.control), Arm(champion))
        plain = replace(plain, mode="canary")
        resident = [rollout.control]
    else:
        arms = (Arm(champion), *(Arm(c.model, c.app) for c in rollout.candidates))
    plain = replace(plain, arms=arms, resident=tuple(resident))
    course = rollout.course
    if course is None:
        return plain
    epoch = course.evidence.assignment.current
    return replace(
        plain,
        epoch=epoch.number,
        salt=epoch.salt,
        shares=tuple(round(share * RESOLUTION) for share in epoch.shares),
        counted=course.counted,
        rates=rates_of(rollout.config),
        latency=course.latency_rules,
        quality=quality_of(rollout.config),
    )


def applications(rollout: Rollout | None) -> dict[str, ModelRef]:
    """Isolated candidates that should run, by name of their application."""
    if rollout is None or (rollout.phase == "baking" and rollout.promoted_at is not None):
        return {}
    numbered = enumerate(rollout.candidates, start=1)
    return {c.app: c.model for number, c in numbered if c.app is not None and number not in rollout.dropped}
