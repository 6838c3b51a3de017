"""Contracts: inferred, edited as YAML, and every check with its message."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_cases import config, replaced, trips

from raymlops.data.checks import (
    ContractViolated,
    Violation,
    compatible,
    new_categories,
    row_checks,
    schema_violations,
    set_violations,
    threshold,
)
from raymlops.data.contract import HEADER, ColumnContract, Contract, infer
from raymlops.data.hashing import table_codes
from raymlops.data.kinds import kind_of, normalise
from raymlops.data.profile import Profile
from raymlops.errors import ConfigError, Refused


def profiled(table: pa.Table) -> tuple[pa.Table, Profile]:
    table = normalise(table, ["at"], {})
    return table, Profile.of(table, table_codes(table))


def kinds_of(table: pa.Table) -> dict[str, str]:
    return {name: kind_of(table.column(name).type) for name in table.column_names}


def violations(contract: Contract, table: pa.Table, now: datetime = datetime(2024, 1, 6, tzinfo=UTC)) -> list[str]:
    """Every violation of a table, in the words that a user reads, without examples."""
    table, profile = profiled(table)
    newest = (
        max((t for t in table.column("at").to_pylist() if t is not None), default=None)
        if "at" in kinds_of(table)
        else None
    )
    found = [str(v) for v in schema_violations(contract, kinds_of(table))]
    if not found:
        found = [f"{column}: {check}: {int(m.sum())}" for (column, check), m in row_checks(contract, table, []).items()]
        found += [str(v) for v in set_violations(contract, profile, newest, now)]
    return found


def inferred(table: pa.Table | None = None, **changes: Any) -> Contract:
    return infer(profiled(trips() if table is None else table)[1], config(**changes))


# --- inference ---


def test_the_first_contract_says_what_was_seen() -> None:
    contract = inferred(data={"contract": {"keys": ["id"], "max_age": "P2D"}})
    assert {name: rule.kind for name, rule in contract.columns.items()} == {
        "id": "integer",
        "at": "timestamp",
        "distance": "number",
        "stops": "integer",
        "carrier": "string",
        "late": "boolean",
        "minutes": "number",
    }
    assert not contract.columns["minutes"].nullable and not contract.columns["id"].nullable
    assert not contract.columns["at"].nullable
    gaps = trips().column("distance").null_count / 240
    assert contract.columns["distance"].max_null_fraction == pytest.approx(2 * gaps + 0.01, abs=1e-4)
    assert contract.columns["carrier"].categories == sorted(["AA", "B6", "UA", "Ünïted"])
    assert contract.columns["id"].min is None  # identifiers grow
    assert (contract.columns["stops"].min, contract.columns["stops"].max) == (-1.5, 4.5)
    assert (contract.keys, contract.min_rows, contract.max_rows) == (["id"], 120, 2400)
    assert (contract.time_column, contract.max_age) == ("at", timedelta(days=2))


number = st.floats(allow_nan=True, allow_infinity=True)
table_rows = st.lists(
    st.tuples(
        st.none() | number,
        st.none() | st.integers(-(2**53), 2**53),
        st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        st.floats(-1e9, 1e9),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(table_rows, st.floats(0, 2))
def test_a_contract_keeps_the_data_that_it_was_inferred_from(rows: list[Any], slack: float) -> None:
    table = pa.table(
        {
            "distance": pa.array([r[0] for r in rows], pa.float64()),
            "stops": pa.array([r[1] for r in rows], pa.int64()),
            "carrier": pa.array([r[2] for r in rows], pa.string()),
            "minutes": pa.array([r[3] for r in rows], pa.float64()),
            "at": pa.array([datetime(2024, 1, 1)] * len(rows), pa.timestamp("us")),
        }
    )
    contract = inferred(table, data={"contract": {"range_slack": slack}})
    assert violations(contract, table) == []
    assert violations(Contract.from_yaml(contract.to_yaml(), "c.yaml"), table) == []


def test_nothing_is_promised_about_a_column_without_values() -> None:
    contract = inferred(trips().append_column("note", pa.nulls(240)))
    assert "note" not in contract.columns
    for later in (trips(), replaced(trips(), "note", ["word"] * 240), replaced(trips(), "note", range(240))):
        assert violations(contract, later) == []


def test_many_values_are_no_categories() -> None:
    assert inferred(replaced(trips(), "carrier", [f"v{i}" for i in range(240)])).columns["carrier"].categories is None


# --- the YAML file ---

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [
        "true",
        "null",
        "3",
        "a: b",
        "{x}",
        "#",
        "? ",
        "- ",
        "'",
        '"',
        "x" * 200,
        "a\nb",
        "@",
        "on",
        "~",
        "!tag",
        "&a",
        "*a",
    ]
)
rules = st.one_of(
    st.builds(
        ColumnContract,
        kind=st.sampled_from(["integer", "number"]),
        required=st.booleans(),
        nullable=st.booleans(),
        max_null_fraction=st.none() | st.floats(0, 1),
        min=st.none() | st.floats(-1e300, 0),
        max=st.none() | st.floats(0, 1e300),
    ),
    st.builds(ColumnContract, kind=st.just("string"), categories=st.none() | st.lists(names, max_size=30)),
    st.builds(
        ColumnContract, kind=st.just("string"), categories=st.lists(names, min_size=1, max_size=3), closed=st.just(True)
    ),
    st.builds(ColumnContract, kind=st.sampled_from(["boolean", "timestamp", "tensor"])),
)
contracts = st.builds(
    Contract,
    columns=st.dictionaries(names, rules, min_size=1, max_size=4),
    keys=st.lists(names, max_size=2),
    min_rows=st.integers(1, 10**9),
    max_rows=st.none() | st.integers(1, 10**12),
    time_column=st.none() | names,
    max_age=st.none() | st.timedeltas(timedelta(0), timedelta(days=4000)),
)


@settings(max_examples=200, deadline=None)
@given(contracts)
def test_yaml_gives_back_the_contract(contract: Contract) -> None:
    text = contract.to_yaml()
    assert Contract.from_yaml(text, "c.yaml") == contract
    assert text.startswith(HEADER) and text.endswith("\n")
    yaml.safe_load(text)


def test_one_column_is_one_line_and_comments_stay_comments() -> None:
    text = inferred().to_yaml()
    lines = [line for line in text.splitlines() if line.startswith("  stops:")]
    assert lines == ["  stops: {kind: integer, max_null_fraction: 0.01, min: -1.5, max: 4.5}"]
    edited = text.replace("max: 4.5}", "max: 9}  # nine since the new hub") + "# end\n"
    assert Contract.from_yaml(edited, "c.yaml").columns["stops"].max == 9


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("nullable", "nulable"), r"^c\.yaml: columns\.\w+\.nulable: unknown key; did you mean 'nullable'\?"),
        (("min_rows:", "minrows:"), r"c\.yaml: minrows: unknown key; did you mean 'min_rows'\?"),
        (("kind: boolean", "kind: bool"), r"columns\.late\.kind: found 'bool'; .*'boolean'"),
        (("min_rows: 120", "min_rows: many"), r"min_rows: found 'many'"),
        (("min: -1.5, max: 4.5", "min: 5, max: 4"), r"columns\.stops: found min 5 > max 4"),
        (
            ("kind: boolean", "kind: boolean, min: 0"),
            r"min and max are for kinds integer and number, found kind boolean",
        ),
        (("kind: boolean", "kind: boolean, categories: [a]"), r"categories are for kind string, found kind boolean"),
        (("version: 1", "version: 2"), r"version: found 2"),
        (("columns:", "columns: ["), r"c\.yaml: not valid YAML"),
        (
            ("columns:\n", "columns:\n  late: {kind: boolean}\n"),
            r"c\.yaml: not valid YAML: .*key 'late' is given twice",
        ),
    ],
)
def test_mistakes_in_an_edited_file_are_named(edit: tuple[str, str], message: str) -> None:
    text = inferred().to_yaml()
    assert edit[0] in text
    with pytest.raises(ConfigError, match=message):
        Contract.from_yaml(text.replace(*edit), "c.yaml")


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Contract.from_yaml("columns: {a: {kind: x}, b: {kind: number, maximum: 3}}\nkey: [a]\n", "c.yaml")
    assert len(caught.value.problems) == 3


def test_lists_as_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML: .*unhashable key"):
        Contract.from_yaml("columns: {[a, b]: {kind: number}}", "c.yaml")


def test_closed_needs_categories() -> None:
    with pytest.raises(ConfigError, match="closed: true needs the categories that are allowed"):
        Contract.from_yaml("columns: {a: {kind: string, closed: true}}", "c.yaml")


# --- checks on rows ---


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


# --- checks on everything ---


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
