"""From an operation to its parser."""

from __future__ import annotations

from collections.abc import Mapping

from raymlops.serving.protocol.infer import parse_infer
from raymlops.serving.protocol.invocations import parse_invocations
from raymlops.serving.protocol.request import ParsedRequest
from raymlops.serving.protocol.routes import Route
from raymlops.serving.protocol.rows import parse_rows
from raymlops.serving.protocol.schema import Rules

PARSERS = {"infer": parse_infer, "rows": parse_rows, "invocations": parse_invocations}


def parse(route: Route, body: bytes, headers: Mapping[str, str], rules: Rules) -> ParsedRequest:
    """The request of an operation that predicts: `infer`, `rows` or `invocations`.

    `headers` by lower-case name. Whatever the body holds, this returns or raises ProtocolError with a status 4xx.
    """
    request = PARSERS[route.operation](body, headers, rules)
    request.size = len(body)
    return request
