from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from data_cases import BY_HASH, config_of, scanned, trips, with_value
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.checks import new_categories, row_checks, schema_violations, set_violations
from raymlops.data.contract import ColumnContract, Contract, infer
from raymlops.data.hashing import table_codes
from raymlops.data.kinds import normalise
from raymlops.data.profile import Profile
from raymlops.errors import ConfigError

NOW = datetime(2030, 3, 2, tzinfo=UTC)


def profile_of(table: pa.Table) -> Profile:
    return Profile.of(table, table_codes(table))


def inferred(table: pa.Table, **changes: Any) -> Contract:
    return infer(profile_of(table), config_of(**changes))


def with_rule(contract: Contract, column: str, **changes: Any) -> Contract:
    rule = ColumnContract.model_validate({**contract.columns[column].model_dump(), **changes})
    return contract.model_copy(update={"columns": {**contract.columns, column: rule}})


CELLS = {
    pa.int64(): st.none() | st.integers(-(2**40), 2**40),
    pa.float64(): st.none() | st.floats(allow_nan=True, allow_infinity=True),
    pa.string(): st.none() | st.text(max_size=3),
    pa.bool_(): st.none() | st.booleans(),
}


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 20))
def test_data_keeps_the_contract_inferred_from_it(data: Any, rows: int) -> None:
    columns = {
        f"c{i}": pa.array(data.draw(st.lists(cell, min_size=rows, max_size=rows)), kind)
        for i, (kind, cell) in enumerate(CELLS.items())
    }
    table = normalise(pa.table({**columns, "minutes": [1.5] * rows, "distance": columns["c1"]}), (), {})
    profile = profile_of(table)
    contract = infer(profile, config_of(data_split=BY_HASH))
    contract = Contract.from_yaml(contract.to_yaml(), "contract.yaml")
    kinds = {name: column.kind for name, column in profile.columns.items()}
    assert schema_violations(contract, kinds) == []
    assert set_violations(contract, profile, None, NOW) == []
    assert row_checks(contract, table, ["minutes"]) == {}
    assert new_categories(contract, profile) == {}


def test_yaml_comes_back_as_it_was_and_explains_itself() -> None:
    contract = inferred(trips(), data_contract={"keys": ["id"], "max_age": "P2D"})
    text = contract.to_yaml()
    assert Contract.from_yaml(text, "c.yaml") == contract
    assert text.startswith("# What this model's data must look like")
    assert "carrier: {kind: string, max_null_fraction:" in text
    assert "max_age: P2D" in text


def test_inference_leaves_slack() -> None:
    contract = inferred(trips(), data_contract={"keys": ["id"]})
    columns = contract.columns
    assert columns["minutes"].nullable is columns["id"].nullable is columns["day"].nullable is False
    assert columns["distance"].max_null_fraction == 0.01 and columns["distance"].nullable
    assert 0.05 < (columns["carrier"].max_null_fraction or 0) < 0.2
    low, high = columns["distance"].min, columns["distance"].max
    assert low is not None and high is not None and low < -1000 and 4000 < high < 5000
    assert columns["id"].max is None, "identifiers grow; only columns used as numbers get a range"
    assert columns["carrier"].categories == ["AA", "B6", "UA"] and not columns["carrier"].closed
    assert (contract.min_rows, contract.max_rows) == (300, 6000)


def test_columns_without_values_and_with_many_values_promise_little() -> None:
    table = trips().append_column("empty", pa.nulls(600)).append_column("name", pa.array([f"n{i}" for i in range(600)]))
    contract = inferred(table)
    assert "empty" not in contract.columns
    assert contract.columns["name"].categories is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("colums: {}", r"c.yaml: colums: unknown key; did you mean 'columns'\?"),
        ("columns: {a: {kind: text}}", r"c.yaml: columns.a.kind: found 'text'; input should be 'integer'"),
        ("columns: {a: {kind: number, mx: 3}}", r"c.yaml: columns.a.mx: unknown key; did you mean 'max'\?"),
        ("columns: {a: {kind: number, min: 3, max: 1}}", "c.yaml: columns.a: found min 3 > max 1"),
        ("columns: {a: {kind: string, min: 3}}", "c.yaml: columns.a: min and max are for kinds integer and number"),
        ("columns: {a: {kind: string, closed: true}}", "c.yaml: columns.a: closed: true needs the categories"),
        ("columns: [", "c.yaml: not valid YAML"),
        ("- a", "c.yaml: expected a mapping at the top level, found list"),
        ("columns: {}\nmin_rows: 0", "c.yaml: min_rows: found 0; input should be greater than or equal to 1"),
    ],
)
def test_mistakes_in_an_edited_contract_are_named(edit: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Contract.from_yaml(edit, "c.yaml")


def test_row_checks_find_exactly_the_offending_rows() -> None:
    table = trips(20)
    contract = with_rule(inferred(table), "carrier", closed=True, nullable=True)
    for column, row, value, check in (
        ("distance", 3, 1e6, "max"),
        ("distance", 4, -1e6, "min"),
        ("carrier", 5, "ZZ", "category"),
        ("minutes", 6, None, "missing"),
        ("minutes", 7, float("nan"), "missing"),
        ("minutes", 8, float("inf"), "missing"),
        ("day", 9, None, "missing"),
    ):
        masks = row_checks(contract, with_value(table, column, row, value), ["minutes", "day"])
        assert {key: mask.nonzero()[0].tolist() for key, mask in masks.items()} == {(column, check): [row]}


def test_missing_values_are_not_out_of_range_and_not_a_new_category() -> None:
    table = with_value(with_value(trips(20), "distance", 0, None), "carrier", 1, None)
    contract = with_rule(inferred(trips(20)), "carrier", closed=True, max_null_fraction=1)
    assert row_checks(contract, table, []) == {}


def test_schema_checks() -> None:
    contract = inferred(trips(), data_contract={"keys": ["id"]})
    kinds = {"id": "integer", "day": "timestamp", "distance": "number", "carrier": "string", "minutes": "number"}
    assert schema_violations(contract, {**kinds, "extra": "tensor"}) == []
    assert schema_violations(contract, {**kinds, "distance": "integer", "carrier": "null"}) == []
    (changed,) = schema_violations(contract, {**kinds, "carrier": "integer"})
    assert str(changed) == "carrier: schema: allowed kind string, observed kind integer"
    del kinds["distance"]
    (absent,) = schema_violations(contract, kinds)
    assert (absent.column, absent.observed) == ("distance", "no such column")
    assert schema_violations(with_rule(contract, "distance", required=False), kinds) == []


def test_whole_numbers_may_come_as_floats_but_fractions_break_the_kind() -> None:
    contract = Contract(columns={"n": ColumnContract(kind="integer")})
    assert schema_violations(contract, {"n": "number"}) == []
    assert set_violations(contract, profile_of(pa.table({"n": [1.0, 2.0, None]})), None, NOW) == []
    (broken,) = set_violations(contract, profile_of(pa.table({"n": [1.0, 2.5, None]})), None, NOW)
    assert broken.observed == "1 of 2 values with fractions"


def test_set_checks_name_threshold_and_observed_value() -> None:
    contract = inferred(trips(), data_contract={"max_age": "P2D"})
    thin = with_value(trips(200), "distance", 0, None)
    for row in range(1, 30):
        thin = with_value(thin, "distance", row, None)
    newest = datetime(2030, 2, 26)
    found = {v.check: str(v) for v in set_violations(contract, profile_of(thin), newest, NOW)}
    assert found == {
        "null fraction": "distance: null fraction: allowed <= 0.01, observed 0.15 (30 of 200 rows)",
        "volume": "(rows): volume: allowed >= 300 rows, observed 200 rows",
        "freshness": "day: freshness: allowed newest row at most 2 days, 0:00:00 old, "
        "observed 4 days, 0:00:00 old (newest 2030-02-26T00:00:00)",
    }
    assert set_violations(contract, profile_of(trips()), newest, NOW - timedelta(days=3)) == []
    (many,) = set_violations(
        contract.model_copy(update={"max_rows": 500, "max_age": None}), profile_of(trips()), None, NOW
    )
    assert many.threshold == "<= 500 rows"


def test_new_categories_are_reported_until_the_list_is_closed(tmp_path: Path) -> None:
    table = with_value(trips(), "carrier", 0, "ZZ")
    contract = inferred(trips())
    assert new_categories(contract, profile_of(table)) == {"carrier": ["ZZ"]}
    assert scanned(config_of(), tmp_path, [table], contract).violations == {}
    closed = with_rule(contract, "carrier", closed=True)
    assert new_categories(closed, profile_of(table)) == {}
    count, examples = scanned(config_of(), tmp_path, [table], closed).violations["carrier", "category"]
    assert count == 1 and examples[0]["carrier"] == "ZZ"
