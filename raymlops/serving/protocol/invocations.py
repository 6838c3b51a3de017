"""MLflow's scoring protocol: POST /invocations with the inputs of `mlflow models serve`.

The forms are those of mlflow/pyfunc/scoring_server and mlflow/utils/proto_json_utils (3.17). Where MLflow would guess
or drop something without a word, this refuses: unknown columns, rows that lack a column, two forms at once. Parquet
bodies are refused as well, because a small one can unpack to any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raymlops.serving.protocol.csv_table import columns_of_csv
from raymlops.serving.protocol.decoding import check_body, check_encoding, decode_object
from raymlops.serving.protocol.errors import JSON, Encoded, ProtocolError, encoded_json, listed, shown
from raymlops.serving.protocol.request import ParsedRequest, Stamp, check_rows, finish, optional_object
from raymlops.serving.protocol.rows import checked_columns, columns_of_records, columns_of_table, records_of
from raymlops.serving.protocol.schema import TENSOR, Rules

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CSV = "text/csv"


def parse_invocations(body: bytes, headers: Mapping[str, str], rules: Rules) -> ParsedRequest:
    """A body of POST /invocations. `params` may carry the assignment key; anything else in it is ignored, as MLflow
    does for a model without a schema of params. Raises ProtocolError 400, 413, 415 or 422.
    """
    check_body(body, rules.limits)
    check_encoding(headers)
    if _media_type(headers) == CSV:
        columns, rows = columns_of_csv(body, rules)
        return finish(columns, rows, headers, rules, PredictionsReply())
    content = decode_object(body, rules)
    forms = [form for form in FORMS if form in content]
    if len(forms) != 1:
        found = listed(map(shown, content)) or "none"
        raise ProtocolError(400, f"body: found fields {found}, expected exactly one of {', '.join(FORMS)}")
    params = optional_object(content.get("params"), "params")
    columns, rows = _PARSERS[forms[0]](content[forms[0]], rules)
    return finish(columns, rows, headers, rules, PredictionsReply(), parameters=params)


def _media_type(headers: Mapping[str, str]) -> str:
    """The type of the body, JSON when nothing is said. Raises ProtocolError 415, where MLflow does."""
    media, *settings = (part.strip() for part in headers.get("content-type", JSON).split(";"))
    for setting in settings:
        name, _, value = setting.partition("=")
        if setting and (name.strip().lower() != "charset" or value.strip(' "').lower() not in ("utf-8", "utf8")):
            raise ProtocolError(415, f"content-type: found {shown(setting)}, expected charset=utf-8", "content-type")
    media = media.lower()
    if media not in (JSON, CSV):
        raise ProtocolError(415, f"content-type: found {shown(media)}, expected {JSON} or {CSV}", "content-type")
    return media


def _split(value: Any, rules: Rules) -> tuple[dict[str, Any], int]:
    field = "dataframe_split"
    if type(value) is not dict or "data" not in value or value.keys() - {"columns", "data", "index"}:
        found = f"the fields {listed(map(shown, value))}" if type(value) is dict else shown(value)
        raise ProtocolError(
            400, f"{field}: found {found}, expected an object of columns, data and perhaps index", field
        )
    names, data, index = value.get("columns"), value["data"], value.get("index")
    if type(names) is not list or not names:
        raise ProtocolError(400, f"{field}.columns: found {shown(names)}, expected a list of columns", field)
    if type(data) is not list:
        raise ProtocolError(400, f"{field}.data: found {shown(data)}, expected a list of rows", field)
    if index is not None and (type(index) is not list or len(index) != len(data)):
        raise ProtocolError(400, f"{field}.index: found {shown(index)}, expected {len(data)} values", field)
    return columns_of_table(names, data, rules, f"{field}.data"), len(data)


def _records(value: Any, rules: Rules, field: str = "dataframe_records") -> tuple[dict[str, Any], int]:
    if type(value) is not list:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected a list of objects", field)
    return columns_of_records(value, rules, field), len(value)


def _instances(value: Any, rules: Rules, field: str = "instances") -> tuple[dict[str, Any], int]:
    """Records, or rows of values in the order of the model's signature."""
    if type(value) is list and value and type(value[0]) is list:
        return columns_of_table(list(rules.schema.columns), value, rules, field), len(value)
    return _records(value, rules, field)


def _inputs(value: Any, rules: Rules) -> tuple[dict[str, Any], int]:
    """Columns by name, one record, or what `instances` may be."""
    if type(value) is not dict:
        return _instances(value, rules, "inputs")
    if not value:
        raise ProtocolError(400, "inputs: found no columns, expected those of the model", "inputs")
    lists = {name: type(values) is list for name, values in value.items() if not _is_tensor(name, rules)}
    if lists and not any(lists.values()):
        return columns_of_records([value], rules, "inputs"), 1
    rows = 0
    for name, values in value.items():
        if name not in rules.columns:
            break  # refused below, by its name
        if type(values) is not list:
            raise ProtocolError(400, f"column {name!r}: found {shown(values)}, expected a list of values", name)
        check_rows(len(values), rules, f"column {name!r}")
        if rows and len(values) != rows:
            raise ProtocolError(400, f"column {name!r}: found {len(values)} rows, expected {rows} as before", name)
        rows = len(values)
    return checked_columns(value, value.__getitem__, rules), rows


def _is_tensor(name: str, rules: Rules) -> bool:
    column = rules.columns.get(name)
    return column is not None and TENSOR in column.kinds


_PARSERS = {"dataframe_split": _split, "dataframe_records": _records, "instances": _instances, "inputs": _inputs}


@dataclass(slots=True)
class PredictionsReply:
    """`{"predictions": [{…}, …]}`: what MLflow answers for a model that returns a data frame."""

    def encode(self, answer: Mapping[str, Any], stamp: Stamp, request_id: str | None) -> Encoded:
        return Encoded(encoded_json({"predictions": records_of(answer)}), {"content-type": JSON})
