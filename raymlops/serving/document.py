"""The routing document: everything a replica must know to answer, in a few hundred bytes.

The rollout controller owns it and pushes it to every replica; nothing else changes where traffic goes. A replica that
has a document needs neither the controller nor MLflow.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

RESOLUTION = 10_000
"""Shares are whole ten-thousandths."""
NAMESPACE = "raymlops"
"""Ray namespace of every named actor."""


@dataclass(frozen=True)
class ModelRef:
    """A registered version, and the hash of its package's manifest. The package is at `packages/SHA256/` below the
    store, so loading it needs no registry."""

    name: str
    version: str
    sha256: str

    @property
    def path(self) -> str:
        return f"packages/{self.sha256}"


@dataclass(frozen=True)
class Arm:
    """Who answers for an arm. `app` is the Serve application of an isolated candidate; None is the replica itself."""

    model: ModelRef
    app: str | None = None


@dataclass(frozen=True)
class LatencyRule:
    """An event of `metric` is a latency above `threshold` seconds in control, and elsewhere above `factor` × that +
    `slack` seconds."""

    metric: str
    threshold: float
    factor: float
    slack: float = 0.0

    def limit(self, candidate: bool) -> float:
        """Seconds above which a request is an event."""
        return self.threshold * self.factor + self.slack if candidate else self.threshold


@dataclass(frozen=True)
class QualityRule:
    """`metric` wants the labels of first predictions. Quality is 1 - |error| / `loss_scale`, clipped to [0, 1], for
    regression, and 1 for the right class, else 0."""

    metric: str
    loss_scale: float


@dataclass(frozen=True)
class RoutingDocument:
    """Ordered by (term, version): a term is one life of a controller, and only its owner may write in it."""

    endpoint: str
    term: int
    version: int
    champion: ModelRef
    """Answers what no candidate gets, and in a candidate's place when it fails. Always in the replica's own process."""
    arms: tuple[Arm, ...] = ()
    """Arm 0 is control, then the candidates; empty without a rollout. While a promoted model bakes, control is the old
    champion and arm 1 the new one."""
    rollout: str | None = None
    """Id of the rollout."""
    mode: str = "canary"
    """`canary`, `ab`, or `shadow`: candidates get copies, and users the champion's answers."""
    epoch: int = 0
    """Number of the evidence's epoch; what is reported carries it."""
    salt: str = ""
    shares: tuple[int, ...] = ()
    """Of each candidate, in ten-thousandths."""
    counted: bool = False
    """False while candidates warm up or the rollout is paused: requests are routed, and compared with nothing."""
    sample: float = 1.0
    """Share of requests that are mirrored in shadow mode."""
    rates: dict[str, str] = field(default_factory=dict)
    """Metric → event (`errors`, `timeouts`, `fallbacks`) that counts for it."""
    latency: tuple[LatencyRule, ...] = ()
    quality: tuple[QualityRule, ...] = ()
    resident: tuple[ModelRef, ...] = ()
    """Models to hold in memory beside the champion: staged for a promotion, warm after one, or co-resident arms."""

    @property
    def order(self) -> tuple[int, int]:
        return self.term, self.version

    @property
    def floats(self) -> tuple[float, ...]:
        """Shares as the evidence wants them."""
        return tuple(share / RESOLUTION for share in self.shares)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> RoutingDocument:
        raw: dict[str, Any] = json.loads(text)
        return cls(
            **{
                **raw,
                "champion": ModelRef(**raw["champion"]),
                "arms": tuple(Arm(ModelRef(**arm["model"]), arm["app"]) for arm in raw["arms"]),
                "shares": tuple(raw["shares"]),
                "latency": tuple(LatencyRule(**rule) for rule in raw["latency"]),
                "quality": tuple(QualityRule(**rule) for rule in raw["quality"]),
                "resident": tuple(ModelRef(**model) for model in raw["resident"]),
            }
        )


def controller_name(endpoint: str) -> str:
    return f"raymlops-rollout-{endpoint}"


def candidate_app(endpoint: str, model: ModelRef) -> str:
    """Serve application of an isolated candidate: equal models share it, so that a deploy is idempotent."""
    return f"{endpoint}-candidate-v{model.version}-{model.sha256[:8]}"
