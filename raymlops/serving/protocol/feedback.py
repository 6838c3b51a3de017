"""Labels that arrive after the predictions: POST …/feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from raymlops.features.values import text
from raymlops.serving.protocol.columns import TEXT_CHARS
from raymlops.serving.protocol.decoding import check_body, check_encoding, decode_object
from raymlops.serving.protocol.errors import JSON, ProtocolError, listed, shown
from raymlops.serving.protocol.request import check_rows
from raymlops.serving.protocol.schema import Rules

FIELDS = ("prediction_id", "key", "label", "at")
LATEST = 253_402_300_799.0
"""Seconds since 1970 at the end of the year 9999."""


class Label(NamedTuple):
    """What really happened. Exactly one of `prediction_id` and `key` says for which prediction."""

    prediction_id: str | None
    key: str | None
    label: float | str
    """A finite number for regression, else the class as canonical text (as `prediction` names it)."""
    at: float | None
    """Seconds since 1970 at which the label was known, where the client says so."""


def parse_feedback(body: bytes, headers: Mapping[str, str], rules: Rules) -> list[Label]:
    """The labels of a body. Raises ProtocolError 400, 413, 415 or 422 naming the entry and its field.

    JSON must be said to be JSON: browsers then ask before a foreign page may send labels to an endpoint on this host.
    """
    check_body(body, rules.limits)
    check_encoding(headers)
    media = headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    if media != JSON:
        raise ProtocolError(415, f"content-type: found {shown(media)}, expected {JSON}", "content-type")
    content = decode_object(body, rules)
    entries = content.get("labels")
    if type(entries) is not list or len(content) != 1:
        expected = 'expected {"labels": [{"prediction_id" or "key", "label", "at"?}, …]}'
        found = f"the fields {listed(map(shown, content)) or 'none'}" if type(entries) is list else shown(entries)
        raise ProtocolError(400, f"labels: found {found}, {expected}", "labels")
    check_rows(len(entries), rules, "labels")
    return [_label(entry, f"labels[{index}]", rules) for index, entry in enumerate(entries)]


def _label(entry: Any, field: str, rules: Rules) -> Label:
    if type(entry) is not dict:
        raise ProtocolError(400, f"{field}: found {shown(entry)}, expected an object", field)
    for name in entry:
        if name not in FIELDS:
            raise ProtocolError(400, f"{field}.{name[:TEXT_CHARS]}: unknown, expected {', '.join(FIELDS)}", field)
    prediction_id, key = entry.get("prediction_id"), entry.get("key")
    if (prediction_id is None) == (key is None):
        found = "neither" if key is None else "both"
        raise ProtocolError(400, f"{field}: found {found} prediction_id and key, expected one of them", field)
    return Label(
        _name(prediction_id, f"{field}.prediction_id"),
        _name(key, f"{field}.key"),
        _value(entry.get("label"), f"{field}.label", bool(rules.schema.classes)),
        _time(entry.get("at"), f"{field}.at"),
    )


def _name(value: Any, field: str) -> str | None:
    if value is None:
        return None
    name = text(value) if type(value) in (str, int) else None
    if not name:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected text", field)
    if len(name) > TEXT_CHARS:
        raise ProtocolError(422, f"{field}: found {len(name)} characters, expected at most {TEXT_CHARS}", field)
    return name


def _value(value: Any, field: str, classes: bool) -> float | str:
    if not classes:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ProtocolError(400, f"{field}: found {shown(value)}, expected a finite number", field)
        return float(value)
    known = type(value) in (str, int, float, bool) and (type(value) is not float or math.isfinite(value))
    label = text(value) if known else None
    if not label:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected a class", field)
    if len(label) > TEXT_CHARS:
        raise ProtocolError(422, f"{field}: found {len(label)} characters, expected at most {TEXT_CHARS}", field)
    return label


def _time(value: Any, field: str) -> float | None:
    """Seconds since 1970, from the same or from ISO 8601 text (UTC unless it says otherwise)."""
    if value is None:
        return None
    seconds = math.nan
    if type(value) in (int, float):
        seconds = float(value)
    elif type(value) is str and len(value) <= 64:
        try:
            moment = datetime.fromisoformat(value.strip())
            seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    if not 0.0 <= seconds <= LATEST:
        expected = "expected a time since 1970 (ISO 8601, or seconds)"
        raise ProtocolError(400, f"{field}: found {shown(value)}, {expected}", field)
    return seconds
