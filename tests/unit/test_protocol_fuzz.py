"""Whatever comes: a parsed request, or a refusal with 4xx. Never anything else."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_cases import JSON, ROWS, STAMP, answer, infer_body, rules

from raymlops.features.rows import Rows
from raymlops.serving.protocol import ProtocolError, parse_feedback, parse_infer, parse_invocations, parse_rows
from raymlops.serving.protocol.datatypes import DATATYPES
from raymlops.serving.protocol.schema import Rules

RULES = rules()
PARSERS = {"infer": parse_infer, "rows": parse_rows, "invocations": parse_invocations}
LABELS = {"labels": [{"prediction_id": "p", "label": "yes", "at": "2024-03-01"}, {"key": "u", "label": "no", "at": 5}]}
VALID: dict[str, list[Any]] = {
    "infer": [
        infer_body(outputs=[{"name": "prediction", "parameters": {"binary_data": True}}], parameters={"key": "u"})
    ],
    "rows": [{"rows": ROWS, "parameters": {"key": "u"}}, ROWS[0]],
    "invocations": [
        {"dataframe_split": {"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS], "index": [0, 1]}},
        {"dataframe_records": ROWS},
        {"instances": ROWS, "params": {}},
        {"inputs": {name: [row[name] for row in ROWS] for name in ROWS[0]}},
    ],
}
names = st.sampled_from(
    ["name", "shape", "datatype", "data", "parameters", "inputs", "rows", "binary_data_size", "key"]
)
words = st.sampled_from([*DATATYPES, *ROWS[0], "user", "", "2024-03-01", "9999-12-31T23:59:59-14:00", "\ud800", "\0"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 60)
    | st.floats()
    | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 5e-324])
    | st.text(max_size=5)
    | words
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | words | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def outcome(protocol: str, body: bytes, headers: dict[str, str], by: Rules = RULES) -> Any:
    """The request, checked and encoded, or the refusal; any other exception ends the test."""
    try:
        request = PARSERS[protocol](body, headers, by)
    except ProtocolError as error:
        assert 400 <= error.status < 500 and error.message
        for family in ("v2", "mlflow"):
            json.loads(error.encode(family).body)
        return error
    assert 1 <= request.rows <= by.limits.rows
    assert by.schema.required <= request.columns.keys() <= by.schema.columns.keys()
    readable(request, by)
    assert request.encode(answer(request.rows, by.schema), STAMP).body
    return request


def readable(request: Any, by: Rules) -> None:
    """The features take every column in every way that the model reads it."""
    rows = Rows(request.columns, request.rows)
    for name in request.columns:
        column = by.schema.columns[name]
        assert len(request.columns[name]) == request.rows
        if "number" in column.kinds:
            assert rows.numbers(name).shape == (request.rows,)
        if "text" in column.kinds:
            assert all(value is None or isinstance(value, str) for value in rows.texts(name))
        if "time" in column.kinds:
            assert rows.times(name).shape == (request.rows,)
        if "tensor" in column.kinds:
            assert np.isfinite(rows.tensors(name, column.shape)).all()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def mutated(value: Any, data: st.DataObject) -> Any:
    """A copy with something replaced, removed, renamed or repeated, one to three times."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(value)))
        if not path:
            value = data.draw(anything) if data.draw(st.integers(0, 20)) == 0 else value
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        how = data.draw(st.sampled_from(["replace", "replace", "remove", "rename", "repeat"]))
        if how == "replace":
            parent[path[-1]] = data.draw(anything)
        elif how == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[data.draw(names | words)] = parent.pop(path[-1]) if how == "rename" else parent[path[-1]]
        else:
            parent.append(copy.deepcopy(parent[path[-1]]))
    return value


headers = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["application/json", "text/csv", "text/csv;charset=utf-8", ";", "a/b"])
        | st.text(max_size=8),
        "inference-header-content-length": st.integers(-2, 90).map(str) | st.text(max_size=4),
        "content-encoding": st.sampled_from(["identity", "gzip", ""]),
        "x-raymlops-key": st.text(max_size=5),
    },
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(PARSERS)), st.binary(max_size=80), headers)
def test_arbitrary_bytes(protocol: str, body: bytes, headers: dict[str, str]) -> None:
    outcome(protocol, body, headers)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(PARSERS)), anything, headers)
def test_arbitrary_json(protocol: str, content: Any, headers: dict[str, str]) -> None:
    outcome(protocol, json.dumps(content).encode(), headers)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(list(PARSERS)), st.data(), st.booleans())
def test_valid_requests_with_something_changed(protocol: str, data: st.DataObject, ascii_only: bool) -> None:
    content = mutated(data.draw(st.sampled_from(VALID[protocol])), data)
    outcome(protocol, json.dumps(content, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"), {})


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(PARSERS)), st.data())
def test_valid_bodies_with_bytes_changed(protocol: str, data: st.DataObject) -> None:
    body = bytearray(json.dumps(data.draw(st.sampled_from(VALID[protocol]))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))
    outcome(protocol, bytes(body[:cut]), {})


@settings(deadline=None, max_examples=200)
@given(
    datatype=st.sampled_from(list(DATATYPES)),
    column=st.sampled_from(list(ROWS[0])),
    size=st.integers(0, 40),
    tail=st.binary(max_size=40),
    off=st.integers(-3, 3),
)
def test_binary_tensors(datatype: str, column: str, size: int, tail: bytes, off: int) -> None:
    content = infer_body()
    item = next(item for item in content["inputs"] if item["name"] == column)
    del item["data"]
    item |= {"datatype": datatype, "parameters": {"binary_data_size": size}}
    encoded = json.dumps(content).encode()
    outcome("infer", encoded + tail, {"inference-header-content-length": str(len(encoded) + off * (off > 1))})


@settings(deadline=None, max_examples=150)
@given(st.text("\",\n\r;=ab1.NAé\0'", max_size=60), st.booleans())
def test_csv(text: str, with_names: bool) -> None:
    body = ("distance,carrier,leaves,month\n" if with_names else "") + text
    outcome("invocations", body.encode(), {"content-type": "text/csv"})


@settings(deadline=None, max_examples=200)
@given(st.data(), st.booleans())
def test_feedback(data: st.DataObject, classes: bool) -> None:
    from protocol_cases import numbers_only

    content = mutated(LABELS, data) if data.draw(st.booleans()) else data.draw(anything)
    try:
        labels = parse_feedback(json.dumps(content).encode(), JSON, RULES if classes else numbers_only("x"))
    except ProtocolError as error:
        assert 400 <= error.status < 500
        return
    assert labels and all((label.prediction_id is None) != (label.key is None) for label in labels)
    assert all(isinstance(label.label, str if classes else float) for label in labels)


def test_what_is_not_changed_is_accepted() -> None:
    for protocol, contents in VALID.items():
        for content in contents:
            assert not isinstance(outcome(protocol, json.dumps(content).encode(), {}), ProtocolError)
