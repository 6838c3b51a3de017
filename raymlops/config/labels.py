"""`labels:` where outcomes come from beside feedback, and how they find their predictions."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, model_validator

from raymlops.config.base import Node
from raymlops.config.data import Source


class LabelSource(Node):
    """A table of outcomes. Exactly one of `prediction_id`, `key` and `entity` says for which prediction a row is."""

    source: Source = Field(discriminator="kind")
    """Where the rows come from, as under `data.source`. Files that were joined are not read again."""
    prediction_id: str | None = None
    """Column with the prediction's id, as the endpoint answered it."""
    row: str | None = None
    """Column with the row within the request, from 0, for requests of several rows; the first when absent."""
    key: str | None = None
    """Column with the key that the request had. The label is for the key's latest prediction before `time`."""
    entity: dict[str, str] = {}
    """Input column → column here. The label is for the latest prediction before `time` whose inputs had these
    values."""
    time: str | None = None
    """Column with the time at which the outcome was known (UTC where it has no zone). Required with `key` and
    `entity`."""
    label: str | None = None
    """Column with the outcome; the column named by `data.target` when absent."""
    received: str | None = None
    """Column that grows as rows are added (a time). Then only rows from the newest time of the last join on
    are taken, and those of files that are new."""

    @model_validator(mode="after")
    def _one_way_to_join(self) -> LabelSource:
        ways = [name for name in ("prediction_id", "key", "entity") if getattr(self, name)]
        if len(ways) != 1:
            raise ValueError(f"expected one of prediction_id, key and entity, found {' and '.join(ways) or 'none'}")
        if not self.prediction_id and self.time is None:
            raise ValueError(f"time: required with {ways[0]}, because the label is for the latest prediction before it")
        if self.row is not None and not self.prediction_id:
            raise ValueError(f"row: only with prediction_id, found {ways[0]}")
        return self


class LabelsConfig(Node):
    max_delay: timedelta = Field(default=timedelta(days=30), gt=timedelta(0))
    """Labels that come later than this after their prediction are counted, not joined. As much of the prediction log is
    searched."""
    wait: timedelta = Field(default=timedelta(days=1), ge=timedelta(0))
    """How long a label without a prediction is kept, in case the log comes late; then it counts as an orphan."""
    sources: list[LabelSource] = []
    """Tables of outcomes, beside what comes by feedback."""
