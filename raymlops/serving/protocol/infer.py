"""Inference requests of the Open Inference Protocol v2: JSON tensors, and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymlops.serving.protocol.datatypes import DATATYPES
from raymlops.serving.protocol.decoding import check_body, check_encoding, decode_object
from raymlops.serving.protocol.errors import ProtocolError, listed, shown
from raymlops.serving.protocol.infer_reply import InferReply
from raymlops.serving.protocol.request import (
    ParsedRequest,
    check_rows,
    finish,
    optional_id,
    optional_object,
    unknown,
)
from raymlops.serving.protocol.schema import ModelSchema, Rules
from raymlops.serving.protocol.tensors import JSON_LENGTH, Tail, row_count, split_body, tensor_values


def parse_infer(body: bytes, headers: Mapping[str, str], rules: Rules) -> ParsedRequest:
    """A body of POST …/infer; `headers` by lower-case name. Raises ProtocolError 400, 413, 415 or 422."""
    check_body(body, rules.limits)
    check_encoding(headers)
    length = headers.get(JSON_LENGTH)
    tail = Tail(b"", declared=False)
    if length is not None:
        body, tail = split_body(body, length)
    request = decode_object(body, rules)
    parameters = optional_object(request.get("parameters"), "parameters")
    columns, rows = _inputs(request.get("inputs"), tail, rules)
    tail.check_used()
    outputs = _outputs(request.get("outputs"), parameters, rules.schema)
    return finish(columns, rows, headers, rules, outputs, optional_id(request.get("id")), parameters)


def _inputs(inputs: Any, tail: Tail, rules: Rules) -> tuple[dict[str, Any], int]:
    if type(inputs) is not list or not inputs:
        raise ProtocolError(400, f"inputs: found {shown(inputs)}, expected a list of tensors", "inputs")
    columns: dict[str, Any] = {}
    rows, known = -1, rules.columns
    for index, item in enumerate(inputs):
        if type(item) is not dict:
            raise ProtocolError(400, f"inputs[{index}]: found {shown(item)}, expected a tensor", f"inputs[{index}]")
        name, named = item.get("name"), item.get("datatype")
        if type(name) is not str:
            raise ProtocolError(400, f"inputs[{index}].name: found {shown(name)}, expected a column", "name")
        column = known.get(name)
        if column is None:
            raise unknown(name, rules)
        if name in columns:
            raise ProtocolError(400, f"input {name!r}: found twice, expected once", name)
        datatype = DATATYPES.get(named) if type(named) is str else None
        if datatype is None:
            expected = f"expected one of {listed(DATATYPES)}"
            raise ProtocolError(400, f"input {name!r}: found datatype {shown(named)}, {expected}", name)
        n = row_count(column, item.get("shape"))
        if n != rows:
            if columns:
                found = f"found {n} rows, expected {rows} as in input {next(iter(columns))!r}"
                raise ProtocolError(400, f"input {name!r}: {found}", name)
            check_rows(n, rules, f"input {name!r}")
            rows = n
        columns[name] = tensor_values(column, datatype, item, n, tail)
    return columns, rows


def _outputs(outputs: Any, parameters: dict[str, Any], schema: ModelSchema) -> InferReply:
    binary = _flag(parameters.get("binary_data_output"), "parameters.binary_data_output", False)
    if outputs is None or outputs == []:
        return InferReply(tuple((name, datatype, binary) for name, datatype in schema.outputs.items()))
    if type(outputs) is not list:
        raise ProtocolError(400, f"outputs: found {shown(outputs)}, expected a list", "outputs")
    chosen: dict[str, tuple[str, str, bool]] = {}
    for index, item in enumerate(outputs):
        name = item.get("name") if type(item) is dict else None
        if type(name) is not str or name not in schema.outputs:
            found = shown(name if type(item) is dict else item)
            message = f"outputs[{index}]: found {found}, expected one of {listed(schema.outputs)}"
            raise ProtocolError(400, message, f"outputs[{index}]")
        if name in chosen:
            raise ProtocolError(400, f"output {name!r}: found twice, expected once", name)
        wishes = optional_object(item.get("parameters"), f"output {name!r}: parameters")
        refusing = [wish for wish in ("classification", "shared_memory_region") if wish in wishes]
        if refusing:
            raise ProtocolError(400, f"output {name!r}: {refusing[0]} is not offered here", name)
        chosen[name] = (name, schema.outputs[name], _flag(wishes.get("binary_data"), f"output {name!r}", binary))
    return InferReply(tuple(chosen.values()))


def _flag(value: Any, field: str, default: bool) -> bool:
    if value is None:
        return default
    if type(value) is not bool:
        raise ProtocolError(400, f"{field}: found {shown(value)}, expected true or false", field)
    return value
