"""`gate:` what a trained model must show on the holdout before it may be called a candidate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymlops.config.base import Node


class Threshold(Node):
    """An absolute bound on a holdout metric."""

    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Threshold:
        if self.max is None and self.min is None:
            raise ValueError("give max, min or both")
        return self


class ChampionComparison(Node):
    """Candidate against champion on the same holdout rows, by a paired bootstrap of the loss difference."""

    tolerance: float = Field(default=0.0, ge=0)
    """The candidate is refused when it is worse than the champion by more than this share of the champion's metric,
    with `confidence`."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    require_improvement: bool = False
    """Refuse unless the candidate is better with `confidence`."""
    resamples: int = Field(default=1000, ge=100, le=100_000)


class Invariance(Node):
    """Changing `column` must not move the prediction by more than `tolerance`."""

    kind: Literal["invariance"]
    column: str
    values: list[Any] = Field(min_length=1)
    """Values the column is set to."""
    tolerance: float = Field(default=0.0, ge=0)
    """In units of the prediction (for classes: of probability)."""
    max_violations: float = Field(default=0.0, ge=0, le=1)
    """Share of holdout rows that may break the rule."""


class Direction(Node):
    """Raising `column` by `by` must move the prediction up (or down)."""

    kind: Literal["direction"]
    column: str
    by: float
    expect: Literal["increase", "decrease"]
    max_violations: float = Field(default=0.05, ge=0, le=1)


class MinimumPerformance(Node):
    """A metric on named rows must meet a bound."""

    kind: Literal["minimum"]
    name: str
    where: dict[str, Any] = Field(min_length=1)
    """Column → value, or list of values; rows that match all of them are the named rows."""
    metric: str
    bound: Threshold
    min_rows: int = Field(default=1, ge=1)
    """Fewer matching holdout rows refuse the model: an untested promise is not kept."""


Behaviour = Annotated[Invariance | Direction | MinimumPerformance, Field(discriminator="kind")]


class GateConfig(Node):
    thresholds: dict[str, Threshold] = {}
    """Metric name → bound on the whole holdout."""
    slices: list[str] = []
    """Columns whose values are reported one by one."""
    slice_thresholds: dict[str, Threshold] = {}
    """Metric name → bound that every slice of at least `min_slice_rows` rows must meet."""
    min_slice_rows: int = Field(default=50, ge=1)
    max_slices: int = Field(default=20, ge=1)
    """Most frequent values per slice column that are reported."""
    champion: ChampionComparison = ChampionComparison()
    behaviours: list[Behaviour] = []
