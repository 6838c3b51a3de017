"""Labels and predictions are named alike, whatever types their values went through on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.config.labels import LabelSource
from raymlops.errors import DataError
from raymlops.monitoring.label_shape import as_kind, canonical
from raymlops.monitoring.label_units import prediction_units, table_labels
from raymlops.rollout.evidence import unit_hash
from raymlops.serving.prediction_table import Record, key_text, to_table

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def source_of(**how: Any) -> LabelSource:
    return LabelSource.model_validate({"source": {"kind": "parquet", "path": "x"}, **how})


def read(rows: dict[str, Any], source: LabelSource, **changes: Any) -> tuple[pa.Table, int, datetime | None]:
    given: dict[str, Any] = {"target": "fare", "endpoint": "fares", "task": "regression", "times": (), "now": NOW}
    return table_labels(pa.table(rows), source, "labels.sources[0]", **{**given, "after": None, **changes})


def logged(inputs: dict[str, Any], n: int, key: int | None = None) -> pa.Table:
    record = Record(NOW.timestamp(), "p", "1", "champion", 1.0, key, inputs, {"prediction": [0.0] * n}, n, 0.0, "ok")
    return to_table([record], "fares", "r")


values = st.one_of(
    st.lists(st.integers(-(2**53), 2**53), min_size=1),
    st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1), min_size=1),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.lists(st.booleans(), min_size=1),
)


@given(values)
def test_an_entity_is_found_by_its_values_in_any_form(entities: list[Any]) -> None:
    """Whole numbers may come as fractions or text; the log may hold text where a table holds numbers."""
    table = logged({"who": entities}, len(entities))
    [*_, in_log] = prediction_units(table, [("who",)], ())
    texts = canonical("who", entities, len(entities))
    for form in (pa.array(entities), pa.array(texts, pa.string())):
        rows = {"id": form, "fare": [1.0] * len(entities), "at": [NOW] * len(entities)}
        labels, *_ = read(rows, source_of(entity={"who": "id"}, time="at"))
        assert labels.column("unit").to_pylist() == [unit for unit in in_log.to_pylist() if unit is not None]


def test_times_are_compared_in_utc() -> None:
    here = datetime(2026, 3, 1, 9, 30)
    table = logged({"day": np.array([here], "datetime64[us]")}, 1)
    [*_, in_log] = prediction_units(table, [("day",)], ["day"])
    east = here.replace(tzinfo=UTC) + timedelta(0)
    for form in (here, east, "2026-03-01T10:30:00+01:00", "2026-03-01 09:30:00"):
        rows = {"d": [form], "fare": [1.0], "at": [NOW]}
        labels, *_ = read(rows, source_of(entity={"day": "d"}, time="at"), times=["day"])
        assert labels.column("unit").to_pylist() == in_log.to_pylist(), form


def test_a_key_is_hashed_as_the_endpoint_does_and_names_the_first_row() -> None:
    table = logged({"x": [1, 2]}, 2, key=unit_hash("fares", "7"))
    by_key = prediction_units(table, [], ())[1].to_pylist()
    labels, *_ = read({"user": [7.0], "fare": [1.0], "at": [NOW]}, source_of(key="user", time="at"))
    assert by_key == [f"key {key_text(unit_hash('fares', '7'))}", None] == [*labels.column("unit").to_pylist(), None]


def test_rows_that_say_nothing_are_passed_over_and_nonsense_is_counted() -> None:
    rows = {
        "id": ["a", None, "c", "d", "e"],
        "fare": ["1", "2", None, "cheap", "5.0"],
        "at": [NOW, NOW, NOW, NOW, None],
        "added": [NOW] * 5,
    }
    labels, unfit, _ = read(rows, source_of(prediction_id="id", time="at", received="added"))
    assert labels.column("unit").to_pylist() == ["id a 0"] and unfit == 2
    labels, unfit, _ = read(rows, source_of(prediction_id="id", received="added"), after=NOW)
    assert labels.column("label").to_pylist() == ["1", "5"]
    assert (labels.column("fresh").to_pylist(), unfit) == ([False] * 2, 0), "counted before, unless they came since"
    assert read(rows, source_of(prediction_id="id", received="added"), after=NOW + timedelta(1))[0].num_rows == 0
    labels, unfit, _ = read(rows, source_of(prediction_id="id"), task="binary")
    assert labels.column("label").to_pylist() == ["1", "cheap", "5.0"] and unfit == 0


def test_a_missing_column_or_time_that_is_none_is_named() -> None:
    rows = {"id": ["a"], "fare": [1.0], "at": ["soon"]}
    with pytest.raises(DataError, match=r"labels\.sources\[0\]: column 'cost' is missing; the source has id, fare, at"):
        read(rows, source_of(prediction_id="id", label="cost"))
    with pytest.raises(DataError, match=r"labels\.sources\[0\]\.at.*'soon'"):
        read(rows, source_of(prediction_id="id", time="at"))


@given(st.lists(st.one_of(st.none(), st.integers(-(2**53), 2**53)), min_size=1))
def test_kinds_are_restored_from_text_and_fractions(numbers: list[int | None]) -> None:
    whole = pa.chunked_array([pa.array(numbers, pa.int64())])
    for form in (whole.cast(pa.float64()), whole.cast(pa.string())):
        assert as_kind("x", form, "integer").to_pylist() == numbers
    assert as_kind("x", whole, "number").to_pylist() == numbers
    assert as_kind("x", whole, "string").to_pylist() == [None if n is None else str(n) for n in numbers]


def test_what_is_not_of_a_kind_stays_as_it_is() -> None:
    column = pa.chunked_array([["1", "two"]])
    for kind in ("integer", "number", "boolean", "timestamp"):
        assert as_kind("x", column, kind) is column
    assert as_kind("x", pa.chunked_array([[1.5]]), "integer").to_pylist() == [1.5]
    assert as_kind("x", pa.chunked_array([[1e300]]), "integer").to_pylist() == [1e300]
    assert as_kind("x", pa.chunked_array([[3.0, float("nan")]]), "integer").to_pylist() == [3, None]
    assert as_kind("x", pa.chunked_array([["[1, 2.5]"]]), "tensor").to_pylist() == [[1.0, 2.5]]
    assert as_kind("x", pa.chunked_array([["true", "0"]]), "boolean").to_pylist() == [True, False]
