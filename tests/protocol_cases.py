"""A model schema with every kind of column, requests for it in every protocol, and a server in process."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from raymlops.config.serving import AssignmentKey, Limits, Tokens
from raymlops.serving.protocol import (
    Authenticator,
    Column,
    ModelSchema,
    ProtocolError,
    Rules,
    Stamp,
    check_length,
    check_model,
    describe,
    encode_json,
    health,
    match,
    parse,
    parse_feedback,
    parse_infer,
    plain_headers,
)

JSON = {"content-type": "application/json"}
STAMP = Stamp("trip", "3", "champion", "p-1")


def column(name: str, *kinds: str, shape: tuple[int, ...] = ()) -> Column:
    return Column(name, frozenset(kinds), shape)


def schema(classes: tuple[str, ...] = ("no", "yes")) -> ModelSchema:
    columns = [
        column("distance", "number"),
        column("carrier", "text"),
        column("leaves", "time"),
        column("pixels", "tensor", shape=(2, 2)),
        column("month", "number", "text"),
    ]
    task = "binary" if classes else "regression"
    return ModelSchema("trip", ("3", "4"), task, {c.name: c for c in columns}, classes)


def rules(**changes: Any) -> Rules:
    limits = changes.pop("limits", Limits(body_bytes=100_000, rows=50))
    key = changes.pop("key", AssignmentKey(column="user"))
    return Rules(changes.pop("schema", schema()), limits, key, **changes)


def numbers_only(*names: str, **changes: Any) -> Rules:
    """Rules of a regression with numeric columns."""
    columns = {name: column(name, "number") for name in names}
    return rules(schema=ModelSchema("trip", ("3",), "regression", columns), **changes)


ROWS = [
    {"distance": 10.5, "carrier": "UA", "leaves": "2024-03-01T08:30:00", "pixels": [[1, 2], [3, 4]], "month": 3},
    {"distance": None, "carrier": None, "leaves": None, "pixels": [[0.5, 0], [0, 1]], "month": 12},
]


def infer_body(**changes: Any) -> dict[str, Any]:
    """`ROWS` as tensors."""
    return {
        "id": "42",
        "inputs": [
            {"name": "distance", "shape": [2], "datatype": "FP64", "data": [10.5, None]},
            {"name": "carrier", "shape": [2, 1], "datatype": "BYTES", "data": [["UA"], [None]]},
            {"name": "leaves", "shape": [2], "datatype": "BYTES", "data": ["2024-03-01T08:30:00", None]},
            {"name": "pixels", "shape": [2, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4, 0.5, 0, 0, 1]},
            {"name": "month", "shape": [2], "datatype": "INT64", "data": [3, 12]},
        ],
        **changes,
    }


def answer(rows: int, model: ModelSchema) -> dict[str, Any]:
    """Predictions of a model that answers the same for all rows."""
    if not model.classes:
        return {"prediction": np.linspace(0.0, 1.0, rows)}
    shares = {f"probability_{label}": np.full(rows, 1 / len(model.classes)) for label in model.classes}
    return {"prediction": np.array([model.classes[-1]] * rows, dtype=object), **shares}


def same_columns(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal in values and types, column by column."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert type(found[name]) is type(values), name
        if isinstance(values, np.ndarray):
            assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
            np.testing.assert_array_equal(found[name], values)
        else:
            assert found[name] == values, name


EXPECTED = {
    "distance": np.array([10.5, np.nan]),
    "carrier": ["UA", None],
    "leaves": np.array(["2024-03-01T08:30:00", "NaT"], dtype="datetime64[us]"),
    "pixels": np.array([[[1, 2], [3, 4]], [[0.5, 0], [0, 1]]], dtype=np.float32),
    "month": [3, 12],
}


class Server:
    """The protocol as an ASGI application around a model that answers at once."""

    def __init__(self, rules: Rules, tokens: Tokens | None = None) -> None:
        self.rules, self.tokens = rules, tokens or Tokens()
        self.authenticator = Authenticator.of(self.tokens)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, content, headers = self.respond(scope["method"], scope["path"], plain_headers(scope["headers"]), body)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    def respond(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        family = "v2"
        try:
            route = match(method, path)
            family = route.family
            self.authenticator.check(route.access, headers)
            check_model(route, self.rules.schema)
            check_length(headers, self.rules.limits)
            if route.operation in ("live", "ready", "model_ready", "ping"):
                status, encoded = health(route, True)
                return status, *encoded
            if route.method == "GET":
                return 200, *describe(route, self.rules, self.tokens)
            if route.operation == "feedback":
                return 200, *encode_json({"accepted": len(parse_feedback(body, headers, self.rules))})
            request = parse(route, body, headers, self.rules)
            return 200, *request.encode(answer(request.rows, self.rules.schema), STAMP)
        except ProtocolError as error:
            return error.status, *error.encode(family)


def post(server: Server, path: str, content: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, reply, _ = server.respond("POST", path, {**JSON, **(headers or {})}, body)
    return status, json.loads(reply)


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
