"""Which rows a retraining reads and how it trains on them: from a decision to a job's configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from raymlops.config.loading import parse_config
from raymlops.config.retraining import Window
from raymlops.config.tree import Config
from raymlops.data.contract import Contract
from raymlops.training.space import with_values


@dataclass(frozen=True)
class Recipe:
    """What is decided before a retraining begins, so that it goes on with the same rows after a restart."""

    data: Literal["labelled", "source"]
    train: Literal["search", "refit", "warm_start"]
    column: str | None
    """Rows are dealt by this time; None leaves the configuration's own split as it is."""
    start: str | None = None
    """ISO times in UTC, as `data.split` takes them; None begins with the first row there is."""
    validation_from: str | None = None
    holdout_from: str | None = None
    end: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_recipe(config: Config, column: str | None, last_day: date, since: str | None) -> Recipe:
    """The window that `retraining.window` asks for, with `last_day` as its last; `since` is the ISO date on which
    the last change began, if there was one."""
    chosen = config.retraining
    plain = Recipe(chosen.data, chosen.train, column)
    if column is None:
        return plain
    window = chosen.window
    end = last_day + timedelta(days=1)
    holdout = end - timedelta(days=window.holdout_days)
    validation = holdout - timedelta(days=window.validation_days)
    start = _start(window, end, since)
    marks = [None if day is None else _midnight(day) for day in (start, validation, holdout, end)]
    return Recipe(chosen.data, chosen.train, column, *marks)


def _start(window: Window, end: date, since: str | None) -> date | None:
    if window.mode == "expanding":
        return None
    if window.mode == "since_change":
        return None if since is None else min(date.fromisoformat(since), end - timedelta(days=window.days))
    return end - timedelta(days=window.days)


def _midnight(day: date) -> str:
    return datetime.combine(day, time(), UTC).isoformat()


def job_config(
    config: Config, recipe: Recipe, labelled: str, contract: str, values: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of the job. `labelled` is the directory of labelled rows, `contract` the file of the contract,
    `values` what the champion's search had found, for `refit` and `warm_start`.

    Raises ConfigError when the champion's values do not fit the configuration any more.
    """
    raw = config.model_dump(mode="json", by_alias=True)
    data = raw["data"]
    if recipe.data == "labelled":
        data["source"] = {"kind": "parquet", "path": labelled}
    if recipe.column is not None:
        marks = {name: getattr(recipe, name) for name in ("start", "validation_from", "holdout_from", "end")}
        if recipe.data == "source" and recipe.start is None and config.data.split.by == "time":
            marks["start"] = data["split"]["start"]  # expanding, but not into what was left out before
        data["split"] = {"by": "time", "column": recipe.column, **marks}
        data["time_column"] = None  # the split's
    if recipe.data == "labelled":
        data["contract"]["keys"] = []
    data["contract"]["path"] = contract
    if data["columns"] is not None or recipe.data == "labelled":
        data["columns"] = None
        data["columns"] = parse_config(raw).used_columns()
    if recipe.train != "search":
        raw["search"] |= {"trials": 1, "space": {}, "refit": True}
    made = parse_config(raw)
    return made if recipe.train == "search" else with_values(made, values or {})


def retraining_contract(contract: Contract, config: Config, labelled: bool) -> Contract:
    """The model's contract as far as it can bind a retraining: a window has another number of rows than the first
    snapshot, and logged rows have the columns that the model takes and the label, no keys, and their own times."""
    plain = contract.model_copy(update={"min_rows": 1, "max_rows": None})
    if not labelled:
        return plain
    kept = {*config.features.raw_columns(), config.data.target}
    columns = {name: rule for name, rule in contract.columns.items() if name in kept}
    return plain.model_copy(update={"columns": columns, "keys": [], "time_column": None, "max_age": None})
