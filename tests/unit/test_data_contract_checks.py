"""Checks of a contract: on single rows, and on all rows together."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contract_cases import inferred, profiled, violations
from snapshot_cases import replaced, trips

from raymlops.data.checks import (
    ContractViolated,
    Violation,
    compatible,
    new_categories,
    row_checks,
    schema_violations,
    threshold,
)
from raymlops.data.contract import ColumnContract, Contract
from raymlops.errors import Refused


def masks(rule: dict[str, Any], values: Any, kind: pa.DataType | None = None) -> dict[str, list[bool]]:
    contract = Contract.model_validate({"columns": {"x": rule}})
    found = row_checks(contract, pa.table({"x": pa.array(values, kind)}), [])
    return {check: mask.tolist() for (column, check), mask in found.items() if column == "x"}


def test_missing_values() -> None:
    number = {"kind": "number", "nullable": False}
    assert masks(number, [1.0, None, math.nan, math.inf]) == {"missing": [False, True, True, True]}
    assert masks({"kind": "number"}, [1.0, None, math.nan]) == {}
    assert masks({"kind": "string", "nullable": False}, ["", None]) == {"missing": [False, True]}
    assert masks({"kind": "string", "nullable": False}, [None, None], pa.null()) == {"missing": [True, True]}


def test_ranges_include_their_ends_and_ignore_missing_values() -> None:
    rule = {"kind": "number", "min": -1, "max": 2}
    assert masks(rule, [-1.0, 2.0, None, math.nan, math.inf]) == {}
    assert masks(rule, [-1.1, 2.1, 0.0]) == {"min": [True, False, False], "max": [False, True, False]}
    assert masks(rule, [-2, 3, None]) == {"min": [True, False, False], "max": [False, True, False]}
    assert masks(rule, [None, None], pa.null()) == {}
    assert masks({"kind": "integer", "min": 2**53 + 2}, [2**53 + 1, 2**53 + 2]) in ({}, {"min": [True, False]})


def test_closed_categories() -> None:
    rule = {"kind": "string", "categories": ["a", "b"], "closed": True}
    assert masks(rule, ["a", "b", None]) == {}
    assert masks(rule, ["a", "c", "A", ""]) == {"category": [False, True, True, True]}
    assert masks(rule | {"closed": False}, ["c"]) == {}
    assert masks(rule, [None, None], pa.null()) == {}


def test_the_label_is_always_present() -> None:
    table = pa.table({"y": [1.0, None], "x": [None, 1.0]})
    assert {k: m.tolist() for k, m in row_checks(None, table, ["y"]).items()} == {("y", "missing"): [False, True]}
    open_rule = Contract.model_validate({"columns": {"y": {"kind": "number"}, "x": {"kind": "number"}}})
    assert list(row_checks(open_rule, table, ["y"])) == [("y", "missing")]


def test_thresholds_in_words() -> None:
    rule = ColumnContract(kind="number", min=0.5, max=1e6)
    assert threshold(rule, "min") == ">= 0.5" and threshold(rule, "max") == "<= 1e+06"
    assert threshold(rule, "missing") == threshold(None, "missing") == "no missing values"
    few = ColumnContract(kind="string", categories=["a", "b"], closed=True)
    assert threshold(few, "category") == "one of a, b"
    many = ColumnContract(kind="string", categories=[f"c{i}" for i in range(50)], closed=True)
    assert threshold(many, "category").endswith("c9, …")


def test_schema() -> None:
    contract = Contract.model_validate(
        {
            "columns": {
                "a": {"kind": "integer"},
                "b": {"kind": "string"},
                "c": {"kind": "number"},
                "d": {"kind": "number", "required": False},
            },
            "keys": ["k"],
        }
    )
    assert [str(v) for v in schema_violations(contract, {"a": "string", "b": "string", "extra": "boolean"})] == [
        "a: schema: allowed kind integer, observed kind string",
        "c: schema: allowed a column of kind number, observed no such column",
        "k: schema: allowed a key column, observed no such column",
    ]
    assert schema_violations(contract, {"a": "number", "b": "null", "c": "integer", "k": "string"}) == []


@pytest.mark.parametrize(
    ("expected", "found", "fine"),
    [
        ("integer", "number", True),
        ("number", "integer", True),
        ("string", "null", True),
        ("string", "integer", False),
        ("boolean", "integer", False),
        ("timestamp", "string", False),
        ("tensor", "number", False),
        ("number", "mixed", False),
        ("number", "unsupported", False),
    ],
)
def test_kinds_that_go_together(expected: str, found: str, fine: bool) -> None:
    assert compatible(expected, found) is fine


def check(rules: dict[str, Any], table: pa.Table, **rest: Any) -> list[str]:
    now = rest.pop("now", datetime(2024, 1, 6, tzinfo=UTC))
    return violations(Contract.model_validate({"columns": rules, **rest}), table, now)


def test_null_fractions() -> None:
    table = pa.table({"x": [1.0, None, math.nan, 4.0]})
    assert check({"x": {"kind": "number", "max_null_fraction": 0.5}}, table) == []
    assert check({"x": {"kind": "number", "max_null_fraction": 0.4}}, table) == [
        "x: null fraction: allowed <= 0.4, observed 0.5 (2 of 4 rows)"
    ]
    gone = pa.table({"x": pa.nulls(4)})
    assert check({"x": {"kind": "number", "max_null_fraction": 0.4}}, gone) == [
        "x: null fraction: allowed <= 0.4, observed 1 (4 of 4 rows)"
    ]


def test_whole_numbers_may_come_as_floats_but_not_with_fractions() -> None:
    assert check({"x": {"kind": "integer"}}, pa.table({"x": [1.0, 2.0, None]})) == []
    assert check({"x": {"kind": "integer"}}, pa.table({"x": [1.5, 2.0, None]})) == [
        "x: schema: allowed whole numbers (kind integer), observed 1 of 2 values with fractions"
    ]


def test_volume() -> None:
    table = pa.table({"x": [1, 2, 3]})
    assert check({}, table, min_rows=3, max_rows=3) == []
    assert check({}, table, min_rows=4) == ["(rows): volume: allowed >= 4 rows, observed 3 rows"]
    assert check({}, table, max_rows=2) == ["(rows): volume: allowed <= 2 rows, observed 3 rows"]


def test_freshness_is_measured_on_the_given_clock_in_any_zone() -> None:
    table = pa.table({"at": pa.array([datetime(2024, 1, 4), datetime(2024, 1, 1)], pa.timestamp("us"))})
    rules = {"time_column": "at", "max_age": "P2D"}
    assert check({}, table, **rules) == []
    east = timezone(timedelta(hours=9))
    assert check({}, table, **rules, now=datetime(2024, 1, 6, 9, tzinfo=east)) == []
    assert check({}, table, **rules, now=datetime(2024, 1, 6, 12, tzinfo=UTC)) == [
        "at: freshness: allowed newest row at most 2 days, 0:00:00 old, "
        "observed 2 days, 12:00:00 old (newest 2024-01-04T00:00:00)"
    ]
    timeless = pa.table({"at": pa.array([None], pa.timestamp("us"))})
    assert check({}, timeless, **rules) == [
        "at: freshness: allowed newest row at most 2 days, 0:00:00 old, observed no row has a time"
    ]


def test_new_values_of_open_columns_are_reported() -> None:
    contract = inferred()
    _, profile = profiled(replaced(trips(), "carrier", ["AA", "ZZ", "F9", None] * 60))
    assert new_categories(contract, profile) == {"carrier": ["F9", "ZZ"]}
    closed = contract.model_copy(
        update={"columns": {"carrier": contract.columns["carrier"].model_copy(update={"closed": True})}}
    )
    assert new_categories(closed, profile) == {}
    assert new_categories(contract, profiled(trips())[1]) == {}


def test_a_violation_reads_as_one_line_with_examples() -> None:
    violation = Violation("x", "max", "<= 2", "1 of 3 rows", ({"id": 7, "at": datetime(2024, 1, 1), "x": "ü"},))
    assert str(violation) == (
        'x: max: allowed <= 2, observed 1 of 3 rows; for example {"id": 7, "at": "2024-01-01 00:00:00", "x": "ü"}'
    )
    error = ContractViolated([violation], "c.yaml")
    assert isinstance(error, Refused) and error.exit_code == 3 and error.violations == [violation]
    assert str(error).startswith("the data breaks the contract c.yaml:\n  x: max: ")


def test_masks_have_one_entry_per_row() -> None:
    table, _ = profiled(trips())
    contract = inferred().model_copy(update={"columns": {"stops": ColumnContract(kind="integer", max=2)}})
    found = row_checks(contract, table, ["minutes"])
    assert list(found) == [("stops", "max")]
    assert found["stops", "max"].tolist() == (np.asarray(table.column("stops")) > 2).tolist()
