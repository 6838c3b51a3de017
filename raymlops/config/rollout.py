"""`rollout:` how a candidate earns the traffic: what is compared, how fast, and who hears of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raymlops.config.base import Node


class RolloutStep(Node):
    share: float = Field(gt=0, lt=1)
    """Share of the traffic for all candidates together."""
    min_seconds: float = Field(default=0.0, ge=0)
    min_requests: int = Field(default=0, ge=0)
    """Requests over all arms."""
    approval: bool = False
    """Somebody has to agree (`raymlops rollout resume`) before this step begins."""


class RateComparison(Node):
    """Events that a request has or has not."""

    kind: Literal["rate"]
    event: Literal["errors", "timeouts", "fallbacks"] = "errors"
    """`errors`: the model of the request's arm raised, answered garbage or was gone. `timeouts`: it took longer than
    `serving.candidate.budget_ms`, measured alike in every arm. `fallbacks`: either; in a candidate's arm the champion
    answers then."""
    tolerance: float = Field(default=1.0, ge=1)
    """Ratio of rates above which the candidate is rolled back."""
    margin: float = Field(default=2.0, gt=1)
    """Ratio of rates below which it must be proven to be promoted."""
    excess: float | None = Field(default=0.01, gt=0, lt=1)
    """Instead of a ratio, the difference of rates below which it must be proven: rates near zero allow nothing else.
    `null` compares by `margin`."""
    strata: int = Field(default=4, ge=1, le=24)
    """Equal parts of the day in each of which the bound on `excess` must be proven; 1 where load has no daily cycle."""


class LatencyComparison(Node):
    """Requests above a quantile of pooled latencies."""

    kind: Literal["latency"]
    quantile: float = Field(default=0.95, gt=0, lt=1)
    """Of the pooled latencies of all arms."""
    tolerance: float = Field(default=1.2, ge=1)
    """Factor on the champion's latency above which the candidate is rolled back."""
    margin: float = Field(default=1.5, gt=1)
    """Factor below which it must be proven to be promoted."""
    slack_ms: float = Field(default=2.0, ge=0)
    """Milliseconds that a candidate may take on top of both: equal models differ by that much by where they run."""


class QualityComparison(Node):
    """Labelled quality: 1 minus the loss per row, clipped to [0, 1]."""

    kind: Literal["quality"]
    loss_scale: float = Field(default=1.0, gt=0)
    """Regression: absolute error, in units of the target, that counts as quality 0. Classes: unused; a right answer is
    1, a wrong one 0."""
    horizon_seconds: float = Field(default=3600.0, gt=0)
    """Seconds after the prediction within which a label counts."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Drop in quality above which the candidate is rolled back."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """Drop below which it must be proven to be promoted."""


Comparison = Annotated[RateComparison | LatencyComparison | QualityComparison, Field(discriminator="kind")]


class Notify(Node):
    """Who is told when a rollout starts, ends or waits for somebody."""

    webhooks: list[str] = []
    """URLs that get the event as JSON by POST."""
    commands: list[list[str]] = []
    """Programs with arguments that get the event as JSON on standard input."""
    timeout_s: float = Field(default=10.0, gt=0)


class RolloutConfig(Node):
    steps: list[RolloutStep] = Field(
        default=[
            RolloutStep(share=0.05, min_seconds=300),
            RolloutStep(share=0.10, min_seconds=300),
            RolloutStep(share=0.25, min_seconds=300),
            RolloutStep(share=0.50),
        ],
        min_length=1,
    )
    """Shares of the traffic, one after the other."""
    warmup_seconds: float = Field(default=60.0, ge=0)
    """At the first share; nothing counts in it, in any arm."""
    deadline_seconds: float = Field(default=172_800.0, gt=0)
    """A rollout without a decision by then ends, and the champion stays."""
    cooldown_seconds: float = Field(default=3600.0, ge=0)
    """After a rollback no rollout starts for so long, unless forced."""
    approve_promotion: bool = False
    """Whether somebody has to agree to a promotion."""
    max_bad_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of errors, timeouts and fallbacks over all arms above which candidates get no traffic."""
    comparisons: dict[str, Comparison] = {
        "errors": RateComparison(kind="rate"),
        "latency": LatencyComparison(kind="latency"),
    }
    """What is compared, by name."""
    alpha: float = Field(default=0.01, gt=0, le=0.5)
    """Chance of a wrong rollback, and of a wrong promotion, over all tries of one artifact."""
    bake_seconds: float = Field(default=600.0, ge=0)
    """After a promotion the old champion keeps `holdback` of the traffic for so long; a regression swaps back."""
    holdback: float = Field(default=0.1, ge=0, lt=1)
    """Share that stays on the old champion after a promotion."""
    shadow_sample: float = Field(default=1.0, gt=0, le=1)
    """Share of requests that are mirrored in shadow mode."""
    notify: Notify = Notify()
    """Who is told."""

    @model_validator(mode="after")
    def _some_comparison(self) -> RolloutConfig:
        if not self.comparisons:
            raise ValueError("comparisons: found none, expected at least one")
        for name in self.comparisons:
            if "@" in name:
                raise ValueError(f"comparisons: found the name {name!r}, expected one without '@'")
        return self
