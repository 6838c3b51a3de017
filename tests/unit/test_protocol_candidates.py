"""Schemas of several models at once: what a candidate may want of requests."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import column, numbers_only, one, parsed

from raymlops.config.serving import Limits
from raymlops.serving.protocol import ModelSchema, ProtocolError, Rules
from raymlops.serving.protocol.columns import from_values
from raymlops.serving.protocol.schema import Column


def test_a_schema_takes_columns_that_only_a_candidate_reads() -> None:
    candidate = ModelSchema(
        "trip", ("5",), "regression", {c.name: c for c in (column("x", "text"), column("z", "text"))}
    )
    champion = numbers_only("x").schema
    both = Rules(champion.accepting(candidate), Limits())
    assert both.schema.versions == ("3", "5")
    assert parsed(one([1.0]), both).columns["x"] == [1.0]  # read as number and as text: the value as it came
    content = one([1.0])
    content["inputs"].append({"name": "z", "shape": [1], "datatype": "BYTES", "data": ["a"]})
    assert parsed(content, both).columns["z"] == ["a"]


KINDS = st.sets(st.sampled_from(["number", "text", "time"]), min_size=1, max_size=3).map(frozenset)
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["a", "2024-01-31", "7", ""])


@given(KINDS, KINDS, st.lists(VALUES, min_size=1, max_size=4))
def test_no_candidate_makes_a_champion_refuse_what_it_takes(
    ours: frozenset[str], theirs: frozenset[str], values: list[Any]
) -> None:
    """And who is said to take it takes it."""

    def taken(column: Column) -> bool:
        try:
            from_values(column, values)
        except ProtocolError:
            return False
        return True

    champion, candidate = Column("x", ours), Column("x", theirs)
    of = {column: ModelSchema("trip", ("1",), "regression", {"x": column}) for column in (champion, candidate)}
    both = of[champion].accepting(of[candidate]).columns["x"]
    assert taken(both) == taken(champion)
    reasons = of[champion].not_taken_by(of[candidate])
    assert (reasons == []) == candidate.takes(champion)
    if candidate.takes(champion) and taken(champion):
        assert taken(candidate)


def test_why_requests_would_not_do_for_a_candidate() -> None:
    def schema(*columns: Column) -> ModelSchema:
        return ModelSchema("trip", ("1",), "regression", {c.name: c for c in columns})

    shared = Column("pixels", frozenset(("tensor",)), (2, 2))
    champion = schema(Column("age", frozenset(("text",))), Column("old", frozenset(("number",))), shared)
    candidate = schema(Column("age", frozenset(("number",))), Column("new", frozenset(("number",))), shared)
    assert champion.not_taken_by(candidate) == [
        "it needs the column 'new', which requests need not have now",
        "it does not know the column 'old', which requests have now",
        "it reads the column 'age' as number, which is text now",
    ]
    wide = schema(Column("pixels", frozenset(("tensor",)), (3, 3)))
    assert schema(shared).not_taken_by(wide) == [
        "it reads the column 'pixels' as tensor of shape [3, 3], which is tensor of shape [2, 2] now"
    ]
    assert schema(shared).not_taken_by(schema(shared)) == []
