"""One routing document in force: everything a request needs to be routed and answered, worked out beforehand.

Immutable. A request takes the one in force when it is routed, and stays with it to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raymlops.config.serving import ServingConfig
from raymlops.serving.dispatch import Dispatcher
from raymlops.serving.document import ModelRef, RoutingDocument
from raymlops.serving.hosting import Host, Hosted
from raymlops.serving.metrics import ArmCounts, Counts
from raymlops.serving.protocol import ModelSchema, Rules
from raymlops.serving.router import Router


@dataclass
class Remote:
    """An isolated candidate."""

    dispatcher: Dispatcher
    schema: ModelSchema | None = None
    """What it reads; None while it has not said."""


@dataclass(frozen=True)
class ArmRoute:
    """How one arm is answered: in this process, or by an isolated candidate."""

    model: ModelRef
    variant: str
    weight: float
    hosted: Hosted | None
    remote: Remote | None
    counts: ArmCounts


@dataclass(frozen=True)
class Routing:
    document: RoutingDocument
    router: Router
    champion: Hosted
    champion_counts: ArmCounts
    arms: tuple[ArmRoute, ...]
    rules: Rules

    @property
    def weights(self) -> dict[str, float]:
        return {arm.variant: arm.weight for arm in self.arms}


def make_routing(
    router: Router, host: Host, remotes: Mapping[str, Remote], counts: Counts, config: ServingConfig
) -> Routing:
    """The models that the router names are in the host, and its candidates among the remotes (by application)."""
    document = router.document
    champion = host.get(document.champion)
    assert champion is not None, "the champion is loaded before its document is followed"
    arms = tuple(
        ArmRoute(
            arm.model,
            router.variants[number],
            router.weights[number],
            host.get(arm.model) if arm.app is None else None,
            remotes.get(arm.app) if arm.app is not None else None,
            counts.arm(router.variants[number], arm.model.version),
        )
        for number, arm in enumerate(router.arms)
    )
    schema = champion.schema
    for arm in arms:
        other = arm.hosted.schema if arm.hosted is not None else arm.remote.schema if arm.remote is not None else None
        if other is not None:
            schema = schema.accepting(other)
    versions = [document.champion.version]
    if config.force_variant:  # naming a version in the path is choosing a variant
        versions += [arm.model.version for arm in arms if arm.model.version not in versions]
    rules = Rules(schema.with_versions(versions), config.limits, config.key, config.nan == "missing")
    return Routing(document, router, champion, counts.arm("champion", document.champion.version), arms, rules)
