"""Bytes → JSON, with size, nesting and number of values bounded before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from raymlops.config.serving import Limits
from raymlops.serving.protocol.errors import ProtocolError, shown
from raymlops.serving.protocol.schema import Rules

_OTHER = bytes(set(range(256)) - set(b'[]{}"'))
_NO_COMMA = bytes(set(range(256)) - set(b',"'))
_SHAPE = bytes.maketrans(b"{}", b"[]")
_QUOTE = ord('"')


def plain_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers of an ASGI scope by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def check_length(headers: Mapping[str, str], limits: Limits) -> None:
    """Refuse by Content-Length, before a body is read: 413, or 400 when it is no number."""
    length = headers.get("content-length")
    if length is None:
        return
    if not (length.isascii() and length.isdigit()):
        raise ProtocolError(400, f"content-length: found {shown(length)}, expected a number of bytes", "content-length")
    if len(length) > 18 or int(length) > limits.body_bytes:
        raise _too_large(shown(int(length)) if len(length) <= 18 else "more", limits)


def check_body(body: bytes, limits: Limits) -> None:
    """Raises ProtocolError 413 for a body above the limit."""
    if len(body) > limits.body_bytes:
        raise _too_large(str(len(body)), limits)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Compressed bodies are refused (415): a few bytes could unpack to any size."""
    found = headers.get("content-encoding")
    if found is not None and found.strip().lower() not in ("", "identity"):
        raise ProtocolError(415, f"content-encoding: found {shown(found)}, expected identity", "content-encoding")


def decode_json(body: bytes, rules: Rules) -> Any:
    """The JSON value. NaN and Infinity are read too, as Python's own clients write them; what is made of them is the
    column's to say.

    Raises ProtocolError 400 for what is no JSON, 422 for nesting and 413 for a number of values beyond the limits.
    """
    check_nesting(body, rules.limits.depth, rules.containers)
    check_values(body, rules.values)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            return _with_nan(body)
        raise ProtocolError(400, f"body: not JSON ({error})") from None


def decode_object(body: bytes, rules: Rules) -> dict[str, Any]:
    """Like `decode_json`, for bodies that must be an object."""
    value = decode_json(body, rules)
    if type(value) is not dict:
        raise ProtocolError(400, f"body: found {shown(value)}, expected an object")
    return value


def check_nesting(body: bytes, depth: int, containers: int) -> None:
    """Exact, and at the speed of `bytes`: what is left when all but brackets and quotes is deleted is peeled level by
    level. Strings vanish as `""` unless they hold brackets or escapes; then quotes are counted.
    """
    marks = body.translate(_SHAPE, _OTHER).replace(b'""', b"")
    # Runs of quotes of even length vanish. All runs are even only if every bracket has an even number of quotes before
    # it, which is to say that it stands outside of strings; but escaped quotes must not have been counted.
    if b'"' in marks or b"\\" in body:
        marks = _outside_strings(body, _OTHER)
    if len(marks) > 2 * containers:
        found = len(marks) // 2
        raise ProtocolError(413, f"body: found {found} lists and objects, expected at most {containers}")
    for _ in range(depth):
        if not marks:
            return
        marks = marks.replace(b"[]", b"")
    # What is left is too deep, or has brackets without a partner, which the parser describes better.
    if marks and b"[]" in marks:
        raise ProtocolError(422, f"body: nested more than {depth} levels deep, expected at most {depth}")


def check_values(body: bytes, most: int) -> None:
    """Numbers are decoded at one go, during which this process does nothing else. Counts the commas between values."""
    if body.count(b",") <= most:
        return
    found = len(_outside_strings(body, _NO_COMMA))
    if found > most:
        raise ProtocolError(413, f"body: found {found} commas between values, expected at most {most}")


def _outside_strings(body: bytes, others: bytes) -> bytes:
    """What is left without `others` and outside of strings: with an even number of quotes before it, escaped ones left
    out."""
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_SHAPE, others)
    codes = np.frombuffer(marks, dtype=np.uint8)
    quotes = codes == _QUOTE
    inside = np.cumsum(quotes, dtype=np.uint8) & 1  # wraps at 256, which keeps the parity
    kept: np.ndarray = codes[~quotes & (inside == 0)]
    return kept.tobytes()


def _with_nan(body: bytes) -> Any:
    try:
        value = json.loads(body.decode())
        orjson.dumps(value)  # refuses lone surrogates and integers beyond 64 bits, as it does when it reads
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(400, f"body: not JSON ({str(error)[:200]})") from None
    return value


def _too_large(found: str, limits: Limits) -> ProtocolError:
    return ProtocolError(413, f"body: found {found} bytes, expected at most {limits.body_bytes}")
