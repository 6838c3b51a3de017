"""Contracts as they are inferred, written and edited."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import yaml
from contract_cases import inferred, violations
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_cases import replaced, trips

from raymlops.data.contract import HEADER, ColumnContract, Contract
from raymlops.errors import ConfigError


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
