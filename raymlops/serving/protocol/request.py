"""What every protocol is parsed into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from raymlops.features.values import text
from raymlops.serving.protocol.columns import TEXT_CHARS
from raymlops.serving.protocol.errors import Encoded, ProtocolError, listed, shown
from raymlops.serving.protocol.schema import TENSOR, Rules


class Stamp(NamedTuple):
    """Who answered; goes into the body of replies."""

    model_name: str
    model_version: str
    variant: str
    prediction_id: str


class Reply(Protocol):
    """How a request wants its answer."""

    def encode(self, answer: Mapping[str, Any], stamp: Stamp, request_id: str | None) -> Encoded:
        """Body and headers for `prediction` and `probability_CLASS`, each an array or list of one value per row."""


@dataclass(slots=True)
class ParsedRequest:
    """A checked request."""

    columns: dict[str, Any]
    """The model's columns. The type of each depends on the model only (see `columns.py`), so that the columns of
    several requests can be joined; `raymlops.features.rows.Rows` takes all of them."""
    rows: int
    id: str | None
    parameters: dict[str, Any]
    key: str | None
    """What keeps a user on one variant: from the header, else the parameter, else the column."""
    reply: Reply
    size: int = 0
    """Bytes of the body."""

    def encode(self, answer: Mapping[str, Any], stamp: Stamp) -> Encoded:
        """The answer in the form that this request asked for."""
        return self.reply.encode(answer, stamp, self.id)


def finish(
    columns: dict[str, Any],
    rows: int,
    headers: Mapping[str, str],
    rules: Rules,
    reply: Reply,
    request_id: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> ParsedRequest:
    """The last checks that all protocols share: every column there, and the key. Raises ProtocolError 400."""
    if not rules.schema.required <= columns.keys():
        lacking = [name for name in rules.schema.columns if name in rules.schema.required and name not in columns]
        raise ProtocolError(400, f"column {lacking[0]!r}: missing; found {listed(columns) or 'none'}", lacking[0])
    parameters = parameters or {}
    key = headers.get(rules.key_header)
    if not key and rules.key.parameter in parameters:
        key = _key(parameters[rules.key.parameter], f"parameters.{rules.key.parameter}")
    by_column = rules.key.column
    if by_column is not None and by_column in columns:
        if not key and rules.columns[by_column].kind != TENSOR:
            key = _key(columns[by_column][0], by_column)
        if by_column == rules.foreign_key:
            del columns[by_column]
    if key is not None and len(key) > TEXT_CHARS:
        raise ProtocolError(422, f"key: found {len(key)} characters, expected at most {TEXT_CHARS}", "key")
    return ParsedRequest(columns, rows, request_id, parameters, key or None, reply)


def _key(value: Any, field: str) -> str | None:
    if isinstance(value, list | dict):
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected text or a number", field)
    return text(value)


def check_rows(rows: int, rules: Rules, field: str) -> None:
    """Raises ProtocolError 400 for no rows, 413 for more than the limit."""
    if rows < 1:
        raise ProtocolError(400, f"{field}: found no rows, expected at least one", field)
    if rows > rules.limits.rows:
        raise ProtocolError(413, f"{field}: found {rows} rows, expected at most {rules.limits.rows}", field)


def unknown(name: Any, rules: Rules) -> ProtocolError:
    """The refusal of a column that the model does not have."""
    field = name if isinstance(name, str) else str(name)
    return ProtocolError(
        400, f"column {shown(name)}: unknown; the model takes {listed(rules.schema.columns)}", field[:TEXT_CHARS]
    )


def optional_id(value: Any) -> str | None:
    """Raises ProtocolError 400 for an id that is no text."""
    if value is None:
        return None
    if type(value) is not str:
        raise ProtocolError(400, f"id: found {shown(value)}, expected text", "id")
    if len(value) > TEXT_CHARS:
        raise ProtocolError(422, f"id: found {len(value)} characters, expected at most {TEXT_CHARS}", "id")
    return value


def optional_object(value: Any, field: str) -> dict[str, Any]:
    """`parameters` and the like: an object, or nothing. Raises ProtocolError 400."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected an object", field)
    return value
