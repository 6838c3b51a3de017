"""What a client did wrong, as an HTTP answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from raymlops.errors import RaymlopsError

JSON = "application/json"
MLFLOW_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    415: "BAD_REQUEST",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Status → the `error_code` that MLflow's clients know."""
SHOWN_CHARS = 60


class Encoded(NamedTuple):
    """A reply's body and its own headers, `content-type` among them; names in lower case."""

    body: bytes
    headers: dict[str, str]


class ProtocolError(RaymlopsError):
    """A request that is refused: HTTP status, what was found and expected, and which field or column it is about."""

    def __init__(
        self, status: int, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.headers = headers or {}

    def encode(self, family: str = "v2") -> Encoded:
        """`{"error": …, "field": …}`; for family `mlflow` what MLflow's scoring server answers."""
        if family == "mlflow":
            code = MLFLOW_CODES.get(self.status, "INTERNAL_ERROR" if self.status >= 500 else "BAD_REQUEST")
            content: dict[str, Any] = {"error_code": code, "message": self.message}
        else:
            content = {"error": self.message}
        if self.field is not None:
            content["field"] = self.field
        return Encoded(encoded_json(content), {"content-type": JSON, **self.headers})


def encode_json(value: Any) -> Encoded:
    """Any JSON value, NumPy arrays and numbers included, as a reply."""
    return Encoded(encoded_json(value), {"content-type": JSON})


def encoded_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def shown(value: Any) -> str:
    """A value for a message, cut to a few words. Containers are only named: printing them could take long."""
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)} values"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value[: SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def listed(names: Any, most: int = 20) -> str:
    """Names for a message."""
    names = list(names)
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
