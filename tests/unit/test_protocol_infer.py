"""Open Inference Protocol v2 in JSON: what is taken, and what is refused with which words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import EXPECTED, column, infer_body, numbers_only, one, parsed, refusal, rules, same_columns

from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.serving.protocol import ModelSchema
from raymlops.serving.protocol.datatypes import DATATYPES

WIDTHS = [name for name in DATATYPES if name not in ("BOOL", "BYTES")]


def test_every_kind_of_column_comes_out_in_its_own_type() -> None:
    request = parsed(infer_body())
    assert (request.rows, request.id, request.key) == (2, "42", None)
    same_columns(request.columns, EXPECTED)


def test_flat_and_nested_data_mean_the_same() -> None:
    nested = infer_body()
    nested["inputs"][3]["data"] = [[[1, 2], [3, 4]], [[0.5, 0], [0, 1]]]
    same_columns(parsed(nested).columns, EXPECTED)
    assert parsed(one([[1.5], [2]], shape=[2, 1]), numbers_only("x")).columns["x"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("name", WIDTHS)
def test_numbers_up_to_the_ends_of_their_datatype(name: str) -> None:
    dtype = DATATYPES[name].dtype
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    ends = [info.min.item() if dtype.kind == "f" else int(info.min), float(info.max) if dtype.kind == "f" else info.max]
    found = parsed(one(ends, name), numbers_only("x")).columns["x"]
    assert found.tolist() == [float(end) for end in ends]
    if name not in ("FP64", "INT64", "UINT64"):
        beyond = [0, ends[1] * 1.01 if dtype.kind == "f" else ends[1] + 1]
        error = refusal(one(beyond, name), numbers_only("x"))
        assert (
            error.status == 400
            and error.field == "x"
            and "row 1" in error.message
            and DATATYPES[name].says in str(error)
        )


def test_small_floats_are_rounded_as_their_binary_form_is() -> None:
    found = parsed(one([0.1, 0.2], "FP32"), numbers_only("x")).columns["x"]
    assert found.tolist() == np.array([0.1, 0.2], np.float32).astype(np.float64).tolist()


def test_booleans_are_numbers_where_they_are_declared() -> None:
    assert parsed(one([True, False], "BOOL"), numbers_only("x")).columns["x"].tolist() == [1.0, 0.0]
    assert "found true, expected a finite number" in str(refusal(one([True], "FP64"), numbers_only("x")))


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16"])
def test_nan_is_refused_unless_it_means_missing(datatype: str) -> None:
    body = b'{"inputs":[{"name":"x","shape":[3],"datatype":"%s","data":[null,NaN,1]}]}' % datatype.encode()
    error = refusal(body, numbers_only("x"))
    assert (error.status, error.field) == (400, "x")
    assert "column 'x', row 1: found nan, expected a finite number or null" in str(error)
    found = parsed(body, numbers_only("x", nan_is_missing=True))
    assert np.isnan(found.columns["x"]).tolist() == [True, True, False]
    assert parsed(body.replace(b"NaN", b"2"), numbers_only("x")).columns["x"].tolist()[1:] == [2.0, 1.0]


@pytest.mark.parametrize("value", ["Infinity", "-Infinity"])
@pytest.mark.parametrize("lenient", [True, False])
def test_infinity_is_refused(value: str, lenient: bool) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[%s]}]}' % value.encode()
    error = refusal(body, numbers_only("x", nan_is_missing=lenient))
    assert error.status == 400 and "expected a finite number or null" in str(error)


@pytest.mark.parametrize(
    ("content", "status", "field", "says"),
    [
        (b"", 400, None, "not JSON"),
        (b"\xff\xfe", 400, None, "not JSON"),
        (b'{"inputs": [NaN, "\\ud800"]}', 400, None, "not JSON"),
        ([], 400, None, "found a list of 0 values, expected an object"),
        ({}, 400, "inputs", "found null, expected a list of tensors"),
        ({"inputs": []}, 400, "inputs", "expected a list of tensors"),
        ({"inputs": [1]}, 400, "inputs[0]", "found 1, expected a tensor"),
        ({"inputs": [{"name": ["x"]}]}, 400, "name", "found a list of 1 values, expected a column"),
        ({"inputs": [{"name": "y"}]}, 400, "y", "column 'y': unknown; the model takes x"),
        (one([1], "FP65"), 400, "x", "found datatype 'FP65', expected one of BOOL"),
        (one([1], ["FP64"]), 400, "x", "found datatype a list of 1 values"),
        (one([1], shape=[1, 2]), 400, "x", "found shape [1, 2], expected [n] or [n, 1]"),
        (one([1], shape=[-1]), 400, "x", "found shape [-1]"),
        (one([1], shape=[True]), 400, "x", "found shape [True]"),
        (one([1], shape=1), 400, "x", "found shape 1"),
        (one([1], shape=[1.0]), 400, "x", "found shape [1.0]"),
        (one([], shape=[0]), 400, "input 'x'", "found no rows"),
        (one([1], shape=[51]), 413, "input 'x'", "found 51 rows, expected at most 50"),
        (one([1], shape=[10**12]), 413, "input 'x'", "rows, expected at most 50"),
        (one([1, 2], shape=[3]), 400, "x", "found 2 elements, expected 3 by its shape"),
        (one([[1], [2, 3]], shape=[2, 1]), 400, "x", "row 1: found a list of 2 values"),
        (one([[1], 2], shape=[2, 1]), 400, "x", "row 1: found 2"),
        (one([1, [2]]), 400, "x", "row 1: found a list of 1 values"),
        (one(["a"]), 400, "x", "column 'x', row 0: found 'a', expected a finite number of 64 bits"),
        (one(["a"], "BYTES"), 400, "x", "found datatype BYTES, expected a numeric datatype"),
        (one([1.5], "INT8"), 400, "x", "found 1.5, expected a whole number from -128 to 127"),
        (one([{}]), 400, "x", "found an object of 0 fields"),
        (one("abc"), 400, "x", "found data 'abc', expected a list"),
        (one([1], parameters=3), 400, "input 'x': parameters", "found 3, expected an object"),
        (one([1], parameters={"binary_data_size": 8}), 400, "x", "found data and binary_data_size"),
        (one([1], parameters={"shared_memory_region": "r"}), 400, "x", "shared memory is not offered"),
        ({**one([1]), "id": 3}, 400, "id", "found 3, expected text"),
        ({**one([1]), "parameters": []}, 400, "parameters", "expected an object"),
        ({**one([1]), "parameters": {"key": [1]}}, 400, "parameters.key", "expected text or a number"),
        ({**one([1]), "parameters": {"key": "k" * 5000}}, 422, "key", "5000 characters"),
        ({**one([1]), "outputs": [{"name": "q"}]}, 400, "outputs[0]", "found 'q', expected one of prediction"),
        ({**one([1]), "outputs": ["prediction"]}, 400, "outputs[0]", "found 'prediction'"),
        ({**one([1]), "outputs": [{"name": "prediction"}] * 2}, 400, "prediction", "found twice"),
        ({**one([1]), "outputs": {"name": "prediction"}}, 400, "outputs", "expected a list"),
        (
            {**one([1]), "outputs": [{"name": "prediction", "parameters": {"classification": 3}}]},
            400,
            "prediction",
            "classification is not offered",
        ),
        (
            {**one([1]), "outputs": [{"name": "prediction", "parameters": {"binary_data": 1}}]},
            400,
            "output 'prediction'",
            "found 1, expected true or false",
        ),
    ],
)
def test_refusals_say_where_what_was_found_and_what_is_expected(
    content: Any, status: int, field: str | None, says: str
) -> None:
    error = refusal(content, numbers_only("x"))
    assert (error.status, error.field) == (status, field)
    assert says in error.message


def test_columns_must_be_there_once_and_of_equal_length() -> None:
    by = numbers_only("x", "y")
    both = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} for name in ("x", "y")]
    assert refusal({"inputs": both[:1]}, by).message == "column 'y': missing; found x"
    assert refusal({"inputs": [*both, both[0]]}, by).message == "input 'x': found twice, expected once"
    longer = {"name": "y", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]}
    assert refusal({"inputs": [both[0], longer]}, by).message == "input 'y': found 2 rows, expected 1 as in input 'x'"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("pixels", {"data": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "column 'pixels', row 0: found a list of 4 values"),
        ("pixels", {"data": [[[1, 2], [3, 4]], [[1, 2], [3]]]}, "column 'pixels', row 1: found a list of 1 values"),
        ("pixels", {"data": [1, 2, 3, 4, 5, None, 7, 8]}, "column 'pixels', row 1: found null"),
        ("pixels", {"datatype": "FP64", "data": [1, 2, 3, 4, 1e39, 6, 7, 8]}, "row 1: found 1e+39, expected finite"),
        ("pixels", {"shape": [2, 4]}, "found shape [2, 4], expected [n, 2, 2]"),
        ("leaves", {"data": ["2024-03-01", "yesterday"]}, "column 'leaves', row 1: found 'yesterday', expected a time"),
        ("leaves", {"data": ["0001-01-01T00:00+14:00", None]}, "expected a year from 1 to 9999"),
        ("leaves", {"datatype": "INT64", "data": [1, 2]}, "found datatype INT64, expected BYTES (ISO 8601)"),
        ("carrier", {"data": ["UA", "x" * 5000]}, "row 1: found text of 5000 characters, expected at most 4096"),
        ("month", {"datatype": "BYTES", "data": ["3", "may"]}, "column 'month', row 0: found '3', expected a number"),
    ],
)
def test_refusals_of_other_kinds_of_columns(name: str, change: dict[str, Any], says: str) -> None:
    content = infer_body()
    next(item for item in content["inputs"] if item["name"] == name).update(change)
    error = refusal(content)
    assert says in error.message and error.field == name and 400 <= error.status < 500


def test_text_columns_take_numbers_as_categories_of_the_same_text() -> None:
    by = rules(schema=ModelSchema("trip", ("3",), "regression", {"x": column("x", "text")}))
    assert parsed(one([3, None, 4], "INT8"), by).columns["x"] == ["3", None, "4"]
    assert parsed(one([3.0, 0.5], "FP32"), by).columns["x"] == ["3", "0.5"]
    assert parsed(one([True], "BOOL"), by).columns["x"] == ["true"]
    assert "expected text" in str(
        refusal(b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[Infinity]}]}', by)
    )


def test_times_are_utc_with_and_without_a_zone() -> None:
    by = rules(schema=ModelSchema("trip", ("3",), "regression", {"x": column("x", "time")}))
    times = ["2024-03-01T08:30:00+02:00", "2024-03-01", " 2024-03-01T08:30:00.123456 ", None]
    expected = ["2024-03-01T06:30:00", "2024-03-01", "2024-03-01T08:30:00.123456", "NaT"]
    found = parsed(one(times, "BYTES"), by).columns["x"]
    np.testing.assert_array_equal(found, np.array(expected, dtype="datetime64[us]"))


@given(
    st.lists(
        st.datetimes(datetime(1, 1, 1)).map(lambda t: t.isoformat(timespec="seconds"))
        | st.dates().map(str)
        | st.sampled_from(
            ["20300131T083000.000", "2030-W05-4T08:30:00", "2030-W05-4", "2030-01-31x08:30:00", "20300131"]
        )
        | st.from_regex(r"[0-9TW:. +Z-]{10}|[0-9TW:. +Z-]{19}", fullmatch=True),
        min_size=1,
        max_size=4,
    )
)
def test_the_fast_way_to_read_times_agrees_with_the_features(texts: list[str]) -> None:
    by = rules(schema=ModelSchema("trip", ("3",), "regression", {"x": column("x", "time")}))
    try:
        expected = Rows({"x": texts}, len(texts)).times("x")
    except (DataError, OverflowError):
        assert refusal(one(texts, "BYTES"), by).status == 400
    else:
        np.testing.assert_array_equal(parsed(one(texts, "BYTES"), by).columns["x"], expected)
