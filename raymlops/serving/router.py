"""Who answers a request: the routing document, worked out once, so that a request costs a hash and a comparison."""

from __future__ import annotations

import random
from typing import Any

from raymlops.errors import RaymlopsError
from raymlops.rollout.evidence import CONTROL, Assignment, Stamp, unit_hash
from raymlops.serving.document import Arm, ModelRef, RoutingDocument

CHAMPION = "champion"
_RANDOM = random.Random()  # seeded by the system, in each process anew; the system's own would be a call per request


class Router:
    """Assignment by one document. The rule is the evidence's own `Assignment`, so what is routed and what is believed
    about routing cannot differ. Raises EvidenceError for shares that no rollout may have."""

    def __init__(self, document: RoutingDocument) -> None:
        self.document = document
        self.arms = document.arms or (Arm(document.champion),)
        self.variants = tuple(_variant(document, self.arms, number) for number in range(len(self.arms)))
        self.weights = _weights(document, len(self.arms))
        self._assignment: Assignment | None = None
        if len(document.shares) > 0 and any(document.shares):
            self._assignment = Assignment(len(document.shares))
            self._assignment.open_block(document.floats, salt=document.salt)

    def route(self, key: str | bytes | None) -> Stamp:
        """The same key gets the same arm for as long as the salt stays and shares only rise. A request without a key
        is drawn at random."""
        unit = _RANDOM.getrandbits(64) if key is None else unit_hash(self.document.salt, key)
        arm = CONTROL if self._assignment is None else self._assignment.arm_of(unit, 0)
        return Stamp(self.document.epoch, arm, unit, key is not None)

    def named(self, variant: str) -> int:
        """The arm with this name. Raises RaymlopsError naming those that there are."""
        if variant not in self.variants:
            raise RaymlopsError(f"variant {variant!r} does not exist now; there are {', '.join(self.variants)}")
        return self.variants.index(variant)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """What must be in this process before the document may be followed."""
        return tuple({m.sha256: m for m in (self.document.champion, *self._local())}.values())

    def _local(self) -> list[ModelRef]:
        return [arm.model for arm in self.arms if arm.app is None]


def described(router: Router) -> dict[str, Any]:
    """A document in one line of a log."""
    document = router.document
    arms = {
        variant: {"version": arm.model.version, "share": round(weight, 6)}
        for variant, arm, weight in zip(router.variants, router.arms, router.weights, strict=True)
    }
    return {"document": list(document.order), "rollout": document.rollout, "mode": document.mode, "arms": arms}


def _variant(document: RoutingDocument, arms: tuple[Arm, ...], number: int) -> str:
    """`champion` is who answers by default. While a promoted model bakes that is arm 1, and arm 0 is `control`."""
    if arms[number].model == document.champion:
        return CHAMPION
    return f"candidate-{number}" if number else "control"


def _weights(document: RoutingDocument, arms: int) -> tuple[float, ...]:
    shares = document.floats
    return (1.0 - sum(shares), *shares) if shares else (1.0, *[0.0] * (arms - 1))
