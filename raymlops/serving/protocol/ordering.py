"""Other systems order a retraining: POST …/retraining."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from raymlops.serving.protocol.columns import TEXT_CHARS
from raymlops.serving.protocol.decoding import check_body, check_encoding, decode_object
from raymlops.serving.protocol.errors import JSON, ProtocolError, shown
from raymlops.serving.protocol.schema import Rules

FIELDS = ("reason", "by", "id")
IDS = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""Names of orders that a client may give. They become names of files, hence no dots."""


class Wanted(NamedTuple):
    """An order as somebody sent it."""

    reason: str
    by: str
    id: str | None
    """Sent again with the same one, it is the same order."""


def parse_order(body: bytes, headers: Mapping[str, str], rules: Rules) -> Wanted:
    """The order of a body. Raises ProtocolError 400, 413, 415 or 422 naming the field."""
    check_body(body, rules.limits)
    check_encoding(headers)
    media = headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    if media != JSON:
        raise ProtocolError(415, f"content-type: found {shown(media)}, expected {JSON}", "content-type")
    content = decode_object(body, rules)
    for name in content:
        if name not in FIELDS:
            raise ProtocolError(400, f"{name[:TEXT_CHARS]}: unknown, expected {', '.join(FIELDS)}", name[:TEXT_CHARS])
    reason, by, given = (content.get(name) for name in FIELDS)
    if given is not None and (type(given) is not str or re.fullmatch(IDS, given) is None):
        raise ProtocolError(400, f"id: found {shown(given)}, expected up to 100 letters, digits, '-' and '_'", "id")
    return Wanted(_text(reason, "reason"), "webhook" if by is None else _text(by, "by"), given)


def _text(value: Any, field: str) -> str:
    found = value.strip() if type(value) is str else ""
    if not found:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected text", field)
    if len(found) > TEXT_CHARS:
        raise ProtocolError(422, f"{field}: found {len(found)} characters, expected at most {TEXT_CHARS}", field)
    return found
