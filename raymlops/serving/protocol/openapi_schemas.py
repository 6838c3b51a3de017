"""JSON Schemas of the bodies, with the model's own columns in them."""

from __future__ import annotations

from typing import Any

from raymlops.serving.protocol.columns import TEXT_CHARS
from raymlops.serving.protocol.datatypes import DATATYPES
from raymlops.serving.protocol.ordering import IDS
from raymlops.serving.protocol.schema import NUMBER, TENSOR, TEXT, TIME, Column, Rules

Json = dict[str, Any]
SCALARS: dict[str, list[Json]] = {
    NUMBER: [{"type": ["number", "boolean", "null"]}],
    TEXT: [{"type": ["string", "number", "boolean", "null"], "maxLength": TEXT_CHARS}],
    TIME: [{"type": ["string", "null"], "maxLength": TEXT_CHARS, "description": "ISO 8601; UTC without a zone"}],
}
EXAMPLES: dict[str, Any] = {NUMBER: 1.5, TEXT: "a", TIME: "2030-01-31T08:30:00"}


def body_schemas(rules: Rules) -> Json:
    """`components.schemas` of the OpenAPI document."""
    schema = rules.schema
    columns = {column.name: _value(column) for column in rules.columns.values()}
    required = [name for name in columns if name in schema.required]
    example = {name: _example(rules.columns[name]) for name in required}
    row = _object(columns, required, extra=False) | {"example": example}
    prediction: Json = {"type": "string", "enum": list(schema.classes)} if schema.classes else {"type": "number"}
    answers = {name: prediction if name == "prediction" else {"type": "number"} for name in schema.outputs}
    answer = _object(answers, list(answers))
    parameters: Json = {"type": "object"}
    text: Json = {"type": "string"}
    said: Json = {"type": "string", "pattern": r"\S", "maxLength": TEXT_CHARS}
    order = {"reason": said, "by": said, "id": {"type": "string", "pattern": f"^{IDS}$"}}
    who = {"model_name": text, "model_version": text, "id": text, "parameters": parameters}
    many = {"minItems": 1, "maxItems": rules.limits.rows}
    tensor = {
        "name": {"enum": list(columns)},
        "datatype": {"enum": list(DATATYPES)},
        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "parameters": parameters,
        "data": {"type": "array"},
    }
    wanted = {"name": {"enum": list(schema.outputs)}, "parameters": parameters}
    output = {
        "name": text,
        "datatype": text,
        "shape": {"type": "array"},
        "parameters": parameters,
        "data": {"type": "array"},
    }
    requests = {
        "inputs": {"type": "array", "minItems": 1, "items": _object(tensor, ["name", "datatype", "shape"])},
        "outputs": {"type": "array", "items": _object(wanted, ["name"])},
    }
    infer_example = {
        "inputs": [
            {"name": c.name, "datatype": c.datatype, "shape": [1, *c.shape], "data": [_example(c)]}
            for c in rules.columns.values()
            if c.required
        ]
    }
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, **many}
    split = {
        "columns": {"type": "array", "items": {"enum": list(columns)}},
        "data": {"type": "array", "items": {"type": "array"}, **many},
        "index": {"type": "array"},
    }
    label: Json = {"type": ["string", "number", "boolean"]} if schema.classes else {"type": "number"}
    entry = {"prediction_id": text, "key": text, "label": label, "at": {"type": ["string", "number", "null"]}}
    one_of = [{"required": ["prediction_id"]}, {"required": ["key"]}]
    labels = {"type": "array", "items": _object(entry, ["label"], extra=False) | {"oneOf": one_of}, **many}
    many_rows = _object({"rows": rows, "id": text, "parameters": parameters}, ["rows"], extra=False)
    forms = (
        ("dataframe_split", _object(split, ["columns", "data"], extra=False)),
        ("dataframe_records", rows),
        ("instances", {"type": "array", **many}),
        ("inputs", {"type": ["object", "array"]}),
    )
    return {
        "Row": row,
        "Rows": {"oneOf": [many_rows, {"$ref": "#/components/schemas/Row"}], "example": {"rows": [example]}},
        "RowsAnswer": _object(
            {**who, "rows": {"type": "array", "items": answer}}, ["model_name", "model_version", "rows"]
        ),
        "InferRequest": _object({"id": text, "parameters": parameters, **requests}, ["inputs"])
        | {"example": infer_example},
        "InferResponse": _object(
            {**who, "outputs": {"type": "array", "items": _object(output, ["name", "datatype", "shape"])}},
            ["model_name", "model_version", "outputs"],
        ),
        "Invocation": {
            "oneOf": [_object({form: inner, "params": parameters}, [form]) for form, inner in forms],
            "example": {"dataframe_records": [example]},
        },
        "Predictions": _object({"predictions": {"type": "array", "items": answer}}, ["predictions"]),
        "Labels": _object({"labels": labels}, ["labels"], extra=False)
        | {"example": {"labels": [{"prediction_id": "…", "label": schema.classes[0] if schema.classes else 1.5}]}},
        "Accepted": _object({"accepted": {"type": "integer"}}, ["accepted"]),
        "Order": _object(order, ["reason"], extra=False)
        | {"example": {"reason": "the upstream table was corrected", "by": "warehouse"}},
        "Ordered": _object({"order": text, "state": text}, ["order", "state"]),
        "Server": _object(
            {"name": text, "version": text, "extensions": {"type": "array"}}, ["name", "version", "extensions"]
        ),
        "Model": _object(
            {name: {"type": "array"} for name in ("versions", "inputs", "outputs")} | {"name": text, "platform": text},
            ["name", "versions", "platform", "inputs", "outputs"],
        ),
        "Error": _object({"error": text, "field": text}, ["error"]),
        "MlflowError": _object({"error_code": text, "message": text, "field": text}, ["error_code", "message"]),
    }


def _object(properties: Json, required: list[str], extra: bool = True) -> Json:
    found: Json = {"type": "object", "properties": properties, "required": required}
    return found if extra else found | {"additionalProperties": False}


def _value(column: Column) -> Json:
    """The JSON Schema of one value of the column."""
    if TENSOR in column.kinds:
        found: Json = {"type": ["number", "boolean"]}
        for size in reversed(column.shape):
            found = {"type": "array", "items": found, "minItems": size, "maxItems": size}
        return found
    choices = [choice for kind in sorted(column.kinds) for choice in SCALARS[kind]]
    return choices[0] if len(choices) == 1 else {"allOf": choices}


def _example(column: Column) -> Any:
    if TENSOR not in column.kinds:
        return EXAMPLES[TIME if TIME in column.kinds else NUMBER if NUMBER in column.kinds else TEXT]
    found: Any = 0.0
    for size in reversed(column.shape):
        found = [found] * size
    return found
