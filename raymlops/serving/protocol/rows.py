"""Rows of named columns: {"rows": [{…}, …]}, or one row as a plain object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymlops.serving.protocol.columns import from_values
from raymlops.serving.protocol.decoding import check_body, check_encoding, decode_json
from raymlops.serving.protocol.errors import JSON, Encoded, ProtocolError, encoded_json, shown
from raymlops.serving.protocol.request import (
    ParsedRequest,
    Stamp,
    check_rows,
    finish,
    optional_id,
    optional_object,
    unknown,
)
from raymlops.serving.protocol.schema import Rules

FIELDS = {"rows", "id", "parameters"}


def parse_rows(body: bytes, headers: Mapping[str, str], rules: Rules) -> ParsedRequest:
    """A body of POST …/rows: an object with `rows` (and perhaps `id` and `parameters`), or one row.

    Raises ProtocolError 400, 413, 415 or 422.
    """
    check_body(body, rules.limits)
    check_encoding(headers)
    content = decode_json(body, rules)
    if type(content) is not dict:
        raise ProtocolError(400, f'body: found {shown(content)}, expected {{"rows": [{{…}}, …]}} or one row')
    if type(content.get("rows")) is not list:
        if "rows" in content and "rows" not in rules.columns:
            raise ProtocolError(400, f"rows: found {shown(content['rows'])}, expected a list of rows", "rows")
        return finish(columns_of_records([content], rules, "body"), 1, headers, rules, RowsReply())
    extra = content.keys() - FIELDS
    if extra:
        name = min(extra)
        raise ProtocolError(400, f"{shown(name)}: unknown beside rows, expected id or parameters", name)
    records = content["rows"]
    columns = columns_of_records(records, rules, "rows")
    parameters = optional_object(content.get("parameters"), "parameters")
    return finish(columns, len(records), headers, rules, RowsReply(), optional_id(content.get("id")), parameters)


def columns_of_records(records: list[Any], rules: Rules, field: str) -> dict[str, Any]:
    """Columns of a list of objects that all have the same names. Raises ProtocolError naming row and column."""
    check_rows(len(records), rules, field)
    for row, record in enumerate(records):
        if type(record) is not dict:
            raise ProtocolError(400, f"{field}, row {row}: found {shown(record)}, expected an object of columns", field)
    names = records[0].keys()
    for row, record in enumerate(records):
        if record.keys() != names:
            for name in record.keys() - rules.columns.keys():
                raise unknown(name, rules)
            name = min(names ^ record.keys())
            where = row if name in names else 0
            raise ProtocolError(400, f"column {shown(name)}: missing from row {where}", name)
    return checked_columns(names, lambda name: [record[name] for record in records], rules)


def columns_of_table(names: Sequence[Any], rows: list[Any], rules: Rules, field: str) -> dict[str, Any]:
    """Columns of a list of lists. Raises ProtocolError for rows of another length."""
    check_rows(len(rows), rules, field)
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {len(names)}:
        row = next(i for i, values in enumerate(rows) if type(values) is not list or len(values) != len(names))
        raise ProtocolError(400, f"{field}, row {row}: found {shown(rows[row])}, expected {len(names)} values", field)
    place = {}
    for position, name in enumerate(names):
        if type(name) is not str:
            raise unknown(name, rules)
        if name in place:
            raise ProtocolError(400, f"column {shown(name)}: found twice, expected once", name)
        place[name] = position
    return checked_columns(names, lambda name: [values[place[name]] for values in rows], rules)


def checked_columns(names: Any, values: Any, rules: Rules) -> dict[str, Any]:
    """`values(name)` of every name, checked as the model's column of that name."""
    columns: dict[str, Any] = {}
    for name in names:
        column = rules.columns.get(name)
        if column is None:
            raise unknown(name, rules)
        columns[name] = from_values(column, values(name))
    return columns


@dataclass(slots=True)
class RowsReply:
    """One object of predictions per row, beside who answered."""

    def encode(self, answer: Mapping[str, Any], stamp: Stamp, request_id: str | None) -> Encoded:
        content: dict[str, Any] = {"model_name": stamp.model_name, "model_version": stamp.model_version}
        if request_id is not None:
            content["id"] = request_id
        content["parameters"] = {"variant": stamp.variant, "prediction_id": stamp.prediction_id}
        content["rows"] = records_of(answer)
        return Encoded(encoded_json(content), {"content-type": JSON})


def records_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One object per row, in the order of the answer's columns."""
    columns = [values.tolist() if hasattr(values, "tolist") else values for values in answer.values()]
    if len(columns) == 1:
        (name,) = answer
        return [{name: value} for value in columns[0]]
    return [dict(zip(answer, row, strict=True)) for row in zip(*columns, strict=True)]
