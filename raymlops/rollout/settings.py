"""From the configuration of an endpoint to what evidence, policy and replicas need."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from raymlops.config.rollout import LatencyComparison, QualityComparison, RateComparison, RolloutConfig
from raymlops.config.serving import ServingConfig
from raymlops.rollout.evidence import EvidenceConfig, LatencyMetric, MeanMetric, Metric, RateMetric
from raymlops.rollout.joining import DELIVERY_SECONDS
from raymlops.rollout.policy import RolloutPolicy, Step
from raymlops.serving.document import RESOLUTION, ModelRef, QualityRule, RoutingDocument

Mode = Literal["canary", "ab", "shadow"]
MODES: tuple[Mode, ...] = ("canary", "ab", "shadow")


@dataclass(frozen=True)
class EndpointSettings:
    """What the controller of an endpoint is told at its start."""

    name: str
    task: str
    storage: str
    tracking_uri: str | None
    serving: ServingConfig
    rollout: RolloutConfig
    champion: ModelRef | None
    """The version that the application was built with: the champion, if the ledger does not know one."""

    @classmethod
    def from_json(cls, text: str) -> EndpointSettings:
        """Raises ValueError (pydantic's, too) or KeyError when it is not what `to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        champion = raw.get("champion")
        return cls(
            raw["name"],
            raw["task"],
            raw["storage"],
            raw.get("tracking_uri"),
            ServingConfig.model_validate(raw["serving"]),
            RolloutConfig.model_validate(raw["rollout"]),
            ModelRef(**champion) if champion else None,
        )

    def to_json(self) -> str:
        champion = self.champion
        return json.dumps(
            {
                "name": self.name,
                "task": self.task,
                "storage": self.storage,
                "tracking_uri": self.tracking_uri,
                "serving": self.serving.model_dump(mode="json"),
                "rollout": self.rollout.model_dump(mode="json"),
                "champion": None if champion is None else vars(champion),
            }
        )


def evidence_config(config: RolloutConfig, *, candidates: int, attempt: int, request_timeout: float) -> EvidenceConfig:
    """`attempt` counts how often the artifact was tried here; its tries share the error `alpha`."""
    return EvidenceConfig(
        metrics=tuple(_metric(name, comparison) for name, comparison in config.comparisons.items()),
        candidates=candidates,
        alpha=config.alpha,
        attempt=attempt,
        request_timeout=request_timeout,
    )


def _metric(name: str, comparison: RateComparison | LatencyComparison | QualityComparison) -> Metric:
    if isinstance(comparison, RateComparison):
        c = comparison
        return RateMetric(name, tolerance=c.tolerance, margin=c.margin, excess=c.excess, strata=c.strata)
    if isinstance(comparison, LatencyComparison):
        slack = comparison.slack_ms / 1000
        return LatencyMetric(name, comparison.tolerance, comparison.margin, comparison.quantile, slack)
    horizon = comparison.horizon_seconds + DELIVERY_SECONDS
    return MeanMetric(name, horizon, comparison.tolerance, comparison.margin)


def policy_of(config: RolloutConfig, mode: Mode) -> RolloutPolicy:
    """`ab` starts at the last step and promotes nobody without approval: two versions beside each other, compared
    until somebody chooses. Raises ConfigError."""
    steps = [Step(s.share, s.min_seconds, s.min_requests, s.approval) for s in config.steps]
    if mode == "ab":
        steps = [replace(steps[-1], approval=False)]
    return RolloutPolicy(
        steps=tuple(steps),
        warmup_seconds=config.warmup_seconds,
        deadline_seconds=config.deadline_seconds,
        approve_promotion=config.approve_promotion or mode == "ab",
        cooldown_seconds=config.cooldown_seconds,
        max_bad_share=config.max_bad_share,
    )


def rates_of(config: RolloutConfig) -> dict[str, str]:
    """Metric → the event that counts for it."""
    return {name: c.event for name, c in config.comparisons.items() if isinstance(c, RateComparison)}


def quality_of(config: RolloutConfig) -> tuple[QualityRule, ...]:
    found = config.comparisons.items()
    return tuple(QualityRule(name, c.loss_scale) for name, c in found if isinstance(c, QualityComparison))


def label_rules(config: RolloutConfig) -> dict[str, tuple[float, float]]:
    """Quality metric → horizon in seconds and loss scale."""
    found = config.comparisons.items()
    return {name: (c.horizon_seconds, c.loss_scale) for name, c in found if isinstance(c, QualityComparison)}


def shares_of(total: float, dropped: frozenset[int], candidates: int) -> tuple[float, ...]:
    """Equal parts of the candidates' share, in whole ten-thousandths; dropped candidates have none."""
    each = round(total / candidates * RESOLUTION) / RESOLUTION
    return tuple(0.0 if number in dropped else each for number in range(1, candidates + 1))


def reporter_config(document: RoutingDocument, request_timeout: float) -> EvidenceConfig:
    """As much of the evidence's configuration as `Reporter` needs, from what a replica has: its document.

    Raises ConfigError for a document that compares nothing.
    """
    latency = {rule.metric.partition("@")[0]: LatencyMetric(rule.metric.partition("@")[0]) for rule in document.latency}
    metrics: list[Metric] = [RateMetric(name) for name in document.rates]
    metrics += latency.values()
    metrics += [MeanMetric(rule.metric, 1.0) for rule in document.quality]
    return EvidenceConfig(metrics=tuple(metrics), request_timeout=request_timeout)
