"""`retraining:` what starts a retraining, what holds it back, what it is trained on, and what becomes of its model."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from raymlops.config.base import Node


def _cron(value: str) -> str:
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(value, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        said = str(error) or "it never comes"
        raise ValueError(f"found {value!r}, expected a cron expression such as '0 3 * * 1': {said}") from None
    return value


def _hours(value: str) -> str:
    begin, end = span(value)
    if begin == end:
        raise ValueError(f"found {value!r}, expected two different times")
    return value


def span(value: str) -> tuple[time, time]:
    """The two ends of `22:00-06:00`. Raises ValueError when they are no times of a day."""
    begin, _, end = value.partition("-")
    return time.fromisoformat(begin.strip()), time.fromisoformat(end.strip())


Cron = Annotated[str, AfterValidator(_cron)]
Hours = Annotated[str, StringConstraints(pattern=r"^\d\d:\d\d-\d\d:\d\d$"), AfterValidator(_hours)]
Positive = Annotated[timedelta, Field(gt=timedelta(0))]
NotNegative = Annotated[timedelta, Field(ge=timedelta(0))]


class Triggers(Node):
    """What may start a retraining. Orders (`raymlops loop trigger`) always may."""

    degradation: bool = True
    """The model's loss rose above its level at registration, as labels show."""
    drift: bool = False
    """Inputs or predictions moved. Off: a moved input is no reason to believe that the model got worse."""
    rows: int | None = Field(default=None, ge=1)
    """So many more rows to train on than at the last retraining."""
    partitions: int | None = Field(default=None, ge=1)
    """So many more files or days of them."""
    schedule: Cron | None = None
    """A cron expression in UTC, such as `0 3 * * 1`. One that came due while no loop ran counts once."""


class Window(Node):
    """Which rows a retraining reads. It ends with the last day whose labels have come."""

    mode: Literal["since_change", "sliding", "expanding"] = "since_change"
    """`since_change` begins when the error last began to rise, but holds `days` at least; with the first row if it
    never did. `sliding` is the last `days`, `expanding` is everything."""
    days: int = Field(default=28, ge=3)
    """Length of `sliding`, least length of `since_change`."""
    validation_days: int = Field(default=7, ge=1)
    """Days before the holdout that pick epochs and trials."""
    holdout_days: int = Field(default=7, ge=1)
    """The newest days, on which the gate compares the model with the champion."""

    @model_validator(mode="after")
    def _leaves_days_to_train_on(self) -> Window:
        if self.validation_days + self.holdout_days >= self.days:
            raise ValueError("expected validation_days + holdout_days < days, so that days to train on remain")
        return self


class RetrainingConfig(Node):
    triggers: Triggers = Triggers()
    debounce: NotNegative = timedelta(0)
    """An alarm has to last so long before it triggers."""
    cooldown: NotNegative = timedelta(days=1)
    """After a retraining none begins for so long."""
    max_per_week: int = Field(default=2, ge=1)
    """Retrainings that may begin within any seven days."""
    quiet_hours: list[Hours] = []
    """Times of day in UTC in which none begins, such as `22:00-06:00`."""
    data: Literal["labelled", "source"] = "labelled"
    """`labelled`: logged predictions joined with their labels. `source`: `data.source`, which somebody lets grow."""
    window: Window = Window()
    follow_up: bool = True
    """With a window `since_change` an incident is answered as soon as the validation and holdout days lie after the
    change. If that was less than `window.days` ago, a follow-up answers it once more when the change fills a window
    before the holdout. Without, there is one retraining, which waits until the change is `window.days` old."""
    train: Literal["search", "refit", "warm_start"] = "search"
    """`search` anew, `refit` with the champion's values, or `warm_start`: refit from the champion's weights, whose
    features (vocabularies, scaling) are kept."""
    rollout: Literal["auto", "alias", "none"] = "auto"
    """`auto`: a rollout where the model has an endpoint, else the alias moves at once. `alias`: it always does. `none`:
    the model stays a candidate for somebody to promote."""
    attempts: int = Field(default=3, ge=1)
    """Times that a retraining is tried when something other than the data or the gate stops it."""
    every: Positive = timedelta(minutes=5)
    """Time between two looks of `raymlops loop`."""
