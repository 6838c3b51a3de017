"""Inference requests of the Open Inference Protocol."""

from __future__ import annotations

import json
import struct
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import EXPECTED, STAMP, answer, column, infer_body, numbers_only, rules, same_columns

from raymlops.config.serving import AssignmentKey, Limits
from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.serving.protocol import ModelSchema, ProtocolError, Rules, parse_infer
from raymlops.serving.protocol.columns import from_values
from raymlops.serving.protocol.datatypes import DATATYPES, read_bytes_elements, write_bytes_elements
from raymlops.serving.protocol.schema import Column

WIDTHS = [name for name in DATATYPES if name not in ("BOOL", "BYTES")]


def parsed(content: Any, by: Rules | None = None, **headers: str) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_infer(body, headers, by or rules())


def refusal(content: Any, by: Rules | None = None, **headers: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parsed(content, by, **headers)
    return caught.value


def one(data: Any, datatype: str = "FP64", shape: Any = None, **more: Any) -> dict[str, Any]:
    """A request with the one column `x`."""
    shape = [len(data)] if shape is None else shape
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}]}


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


def test_nan_of_python_clients_is_missing_and_infinity_is_refused() -> None:
    found = parsed(b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","data":[NaN,1]}]}', numbers_only("x"))
    assert np.isnan(found.columns["x"]).tolist() == [True, False]
    for data in ("[Infinity]", "[-Infinity]"):
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":%s}]}' % data.encode()
        error = refusal(body, numbers_only("x"))
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
        ("leaves", {"data": ["0001-01-01T00:00+14:00", None]}, "beyond the years 1 to 9999"),
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


class TestBinary:
    def body(self, header: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
        encoded = json.dumps(header).encode()
        return encoded + b"".join(parts), {"inference-header-content-length": str(len(encoded))}

    def declared(self, size: Any, datatype: str = "FP64", shape: Any = (2,)) -> dict[str, Any]:
        parameters = {"binary_data_size": size}
        return {"inputs": [{"name": "x", "shape": list(shape), "datatype": datatype, "parameters": parameters}]}

    @pytest.mark.parametrize("name", [*WIDTHS, "BOOL"])
    def test_every_datatype(self, name: str) -> None:
        values = np.array([0, 1, 1], dtype=DATATYPES[name].dtype)
        body, headers = self.body(self.declared(values.nbytes, name, [3]), values.tobytes())
        assert parse_infer(body, headers, numbers_only("x")).columns["x"].tolist() == [0.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("header", "parts", "says"),
        [
            ((16,), [b"\0" * 15], "found 15 bytes of binary data, expected 16"),
            ((16,), [b"\0" * 17], "found 1 bytes of binary data that no input declares"),
            ((15,), [b"\0" * 15], "found 15 bytes, expected 16 (2 × FP64)"),
            ((-1,), [], "found binary_data_size -1, expected a number of bytes"),
            ((True,), [], "found binary_data_size true"),
            ((16,), [struct.pack("<dd", 1.0, np.inf)], "row 1: found inf, expected a finite number or null"),
            ((16, "BYTES"), [b"\0" * 16], "found datatype BYTES"),
        ],
    )
    def test_refusals(self, header: tuple[Any, ...], parts: list[bytes], says: str) -> None:
        body, headers = self.body(self.declared(*header), *parts)
        with pytest.raises(ProtocolError) as caught:
            parse_infer(body, headers, numbers_only("x"))
        assert caught.value.status == 400 and says in caught.value.message

    @pytest.mark.parametrize("length", ["x", "-1", "", "1000000", "1e3", "9" * 30, "²"])
    def test_bad_header_lengths(self, length: str) -> None:
        error = refusal(b"{}", numbers_only("x"), **{"inference-header-content-length": length})
        assert error.status == 400 and error.field == "inference-header-content-length"

    def test_binary_data_needs_the_header(self) -> None:
        assert "without the header" in str(refusal(self.declared(16), numbers_only("x")))

    def test_nan_is_missing(self) -> None:
        body, headers = self.body(self.declared(16), struct.pack("<dd", 1.0, np.nan))
        assert np.isnan(parse_infer(body, headers, numbers_only("x")).columns["x"]).tolist() == [False, True]

    def test_texts(self) -> None:
        texts = ["", "UA", "Zürich 🚲"]
        assert read_bytes_elements(write_bytes_elements(texts), 3, "x") == texts

    @pytest.mark.parametrize(
        ("data", "count", "says"),
        [
            (b"", 1, "found 0 bytes, expected 1 BYTES elements"),
            (b"\0\0\0\0\0", 1, "found 1 bytes after 1 BYTES elements"),
            (b"\xff\xff\xff\xff", 1, "found a length of 4294967295 bytes where 0 are left"),
            (b"\0\0\0\0\1\0\0\0", 2, "found a length of 1 bytes where 0 are left"),
            (b"\4\0\0\0abcd\0", 2, "found 1 BYTES elements, expected 2"),
            (b"\1\0\0\0\xff", 1, "element 0: not UTF-8 text"),
            (b"", 10**12, "expected 1000000000000 BYTES elements"),
        ],
    )
    def test_malformed_texts(self, data: bytes, count: int, says: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            read_bytes_elements(data, count, "x")
        assert caught.value.status == 400 and says in caught.value.message


class TestReply:
    def test_all_outputs_in_order_when_none_is_requested(self) -> None:
        request = parsed(infer_body())
        reply = request.encode(answer(2, rules().schema), STAMP)
        assert reply.headers == {"content-type": "application/json"}
        assert json.loads(reply.body) == {
            "model_name": "trip",
            "model_version": "3",
            "id": "42",
            "parameters": {"variant": "champion", "prediction_id": "p-1"},
            "outputs": [
                {"name": "prediction", "datatype": "BYTES", "shape": [2], "data": ["yes", "yes"]},
                {"name": "probability_no", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
                {"name": "probability_yes", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
            ],
        }

    def test_requested_outputs_only(self) -> None:
        request = parsed(infer_body(outputs=[{"name": "probability_yes"}], id=None))
        content = json.loads(request.encode(answer(2, rules().schema), STAMP).body)
        assert [output["name"] for output in content["outputs"]] == ["probability_yes"]
        assert "id" not in content

    @pytest.mark.parametrize("rows", [1, 16, 17, 40])
    def test_numbers_come_back_exactly(self, rows: int) -> None:
        request = parsed(one([1.0] * rows), numbers_only("x"))
        values = np.random.default_rng(rows).normal(size=2 * rows)[::2]
        content = json.loads(request.encode({"prediction": values}, STAMP).body)
        assert content["outputs"][0]["data"] == values.tolist()


class TestKey:
    by = rules(
        schema=ModelSchema("trip", ("3",), "regression", {"x": column("x", "number")}), key=AssignmentKey(column="user")
    )

    def content(self, parameter: Any = None, users: Any = None) -> dict[str, Any]:
        content = one([1.0])
        if users is not None:
            content["inputs"].append({"name": "user", "shape": [1], "datatype": "BYTES", "data": users})
        return content if parameter is None else {**content, "parameters": {"key": parameter}}

    def test_header_then_parameter_then_column(self) -> None:
        everything = self.content("p", ["c"])
        assert parsed(everything, self.by, **{"x-raymlops-key": "h"}).key == "h"
        assert parsed(everything, self.by).key == "p"
        assert parsed(self.content(7), self.by).key == "7"
        request = parsed(self.content(users=["c"]), self.by)
        assert request.key == "c" and request.columns.keys() == {"x"}
        assert parsed(self.content(users=[None]), self.by).key is None
        assert parsed(self.content(), self.by).key is None

    def test_a_column_of_the_model_may_be_the_key_and_stays(self) -> None:
        request = parsed(one([7.0]), numbers_only("x", key=AssignmentKey(column="x")))
        assert request.key == "7" and request.columns["x"].tolist() == [7.0]

    def test_the_name_of_the_header_has_no_case(self) -> None:
        by = numbers_only("x", key=AssignmentKey(header="X-User"))
        assert parsed(one([1.0]), by, **{"x-user": "u"}).key == "u"


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
