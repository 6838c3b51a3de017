"""From a decision to the configuration of a job."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from snapshot_cases import config

from raymlops.config.tree import Config
from raymlops.data.contract import ColumnContract, Contract
from raymlops.errors import ConfigError
from raymlops.retraining.recipe import Recipe, job_config, make_recipe, retraining_contract

LAST = date(2026, 3, 31)


def made(since: str | None = None, column: str | None = "time", **window: Any) -> Recipe:
    rules = config(retraining={"window": {"days": 30, **window}})
    return make_recipe(rules, column, LAST, since)


@pytest.mark.parametrize(
    ("mode", "since", "start"),
    [
        ("sliding", "2026-01-10", "2026-03-02"),
        ("since_change", None, None),
        ("since_change", "2026-01-10", "2026-01-10"),
        ("since_change", "2026-03-20", "2026-03-02"),
        ("expanding", "2026-03-20", None),
    ],
)
def test_the_window_begins_where_its_mode_says(mode: str, since: str | None, start: str | None) -> None:
    recipe = made(since, mode=mode)
    assert (recipe.start and recipe.start[:10]) == start
    marks = (recipe.validation_from, recipe.holdout_from, recipe.end)
    assert [mark and mark[:10] for mark in marks] == ["2026-03-18", "2026-03-25", "2026-04-01"]


def apply(rules: Config, recipe: Recipe, values: dict[str, Any] | None = None) -> Config:
    return job_config(rules, recipe, "/store/labelled/trips", "/store/contract.yaml", values)


def test_labelled_rows_are_read_from_their_directory_and_dealt_by_the_time_of_the_prediction() -> None:
    rules = config(data={"contract": {"keys": ["at", "carrier"]}, "split!": {"by": "hash", "key": "at"}})
    found = apply(rules, made())
    assert (found.data.source.kind, found.data.source.path) == ("parquet", "/store/labelled/trips")
    assert (found.time_column, found.data.contract.path, found.data.contract.keys) == (
        "time",
        "/store/contract.yaml",
        [],
    )
    assert found.data.columns == ["at", "carrier", "distance", "minutes", "stops", "time"]
    assert found.data.split.by == "time" and str(found.data.split.end)[:10] == "2026-04-01"


def test_a_source_keeps_its_columns_and_what_was_left_out_stays_out() -> None:
    rules = config(
        retraining={"data": "source", "window": {"mode": "expanding"}}, data={"split": {"start": "2023-01-01"}}
    )
    found = apply(rules, make_recipe(rules, "at", LAST, None))
    assert found.data.source == rules.data.source and found.data.columns is None
    assert found.data.split.by == "time" and str(found.data.split.start)[:10] == "2023-01-01"
    whole = apply(rules, make_recipe(rules, None, LAST, None))
    assert whole.data.split == rules.data.split


def test_a_refit_tries_the_champions_values_and_no_others() -> None:
    rules = config(retraining={"train": "refit"}, search={"trials": 9, "space": {"train.epochs": {"int": [1, 3]}}})
    found = apply(rules, make_recipe(rules, "time", LAST, None), {"train.epochs": 2, "train.learning_rate": 0.5})
    assert (found.search.trials, found.search.space, found.search.refit) == (1, {}, True)
    assert (found.train.epochs, found.train.learning_rate) == (2, 0.5)
    with pytest.raises(ConfigError, match=r"train\.epoch: unknown key"):
        apply(rules, make_recipe(rules, "time", LAST, None), {"train.epoch": 2})


def test_the_contract_binds_what_a_window_of_the_log_can_have() -> None:
    columns = {
        name: ColumnContract(kind="number", min=0, max=9) for name in ("distance", "stops", "minutes", "weather")
    }
    given = Contract(columns=columns, keys=["at"], min_rows=500, max_rows=10_000, time_column="at", max_age="P2D")
    bound = retraining_contract(given, config(), labelled=True)
    assert set(bound.columns) == {"distance", "stops", "minutes"} and bound.columns["distance"].max == 9
    assert (bound.keys, bound.min_rows, bound.max_rows, bound.max_age) == ([], 1, None, None)
    source = retraining_contract(given, config(), labelled=False)
    assert (source.columns, source.keys, source.max_age) == (given.columns, ["at"], given.max_age)
    assert (source.min_rows, source.max_rows) == (1, None)
