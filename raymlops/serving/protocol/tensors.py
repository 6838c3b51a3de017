"""One input tensor of an inference request to the column that it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raymlops.serving.protocol.columns import check_flat, flattened, from_array, from_values, refused
from raymlops.serving.protocol.datatypes import Datatype, read_bytes_elements
from raymlops.serving.protocol.errors import ProtocolError, shown
from raymlops.serving.protocol.request import optional_object
from raymlops.serving.protocol.schema import NUMBER, TENSOR, TIME, Column

JSON_LENGTH = "inference-header-content-length"
NUMBERS = "a numeric datatype or BOOL"


class Tail:
    """The binary data after the JSON, handed out in the order of the inputs."""

    def __init__(self, data: bytes, declared: bool) -> None:
        self.data, self.declared, self.at = data, declared, 0

    def take(self, column: Column, size: int) -> bytes:
        if not self.declared:
            found = f"found binary_data_size without the header {JSON_LENGTH}"
            raise ProtocolError(400, f"input {column.name!r}: {found}", column.name)
        left = len(self.data) - self.at
        if size > left:
            found = f"found {left} bytes of binary data, expected {size}"
            raise ProtocolError(400, f"input {column.name!r}: {found}", column.name)
        self.at += size
        return self.data[self.at - size : self.at]

    def check_used(self) -> None:
        left = len(self.data) - self.at
        if left:
            raise ProtocolError(400, f"body: found {left} bytes of binary data that no input declares", JSON_LENGTH)


def split_body(body: bytes, length: str) -> tuple[bytes, Tail]:
    """The JSON and the binary data of a body whose JSON has this length. Raises ProtocolError 400."""
    plain = length.isascii() and length.isdigit() and len(length) <= 18
    if not plain or int(length) > len(body):
        found = f"found {shown(length)}, expected a number up to the body's {len(body)} bytes"
        raise ProtocolError(400, f"{JSON_LENGTH}: {found}", JSON_LENGTH)
    return body[: int(length)], Tail(body[int(length) :], declared=True)


def row_count(column: Column, shape: Any) -> int:
    """Rows of a shape [n], [n, 1] or, for tensors, [n, …]. Raises ProtocolError 400 for any other."""
    fits = type(shape) is list and 1 <= len(shape) <= len(column.shape) + 2
    if fits and all(type(size) is int and size >= 0 for size in shape):
        inner = tuple(shape[1:])
        if inner == column.shape or (inner == (1,) and not column.shape):
            return int(shape[0])
    expected = f"[n, {', '.join(map(str, column.shape))}]" if column.shape else "[n] or [n, 1]"
    found = shape if type(shape) is list and len(shape) <= 8 else shown(shape)
    raise ProtocolError(400, f"input {column.name!r}: found shape {str(found)[:100]}, expected {expected}", column.name)


def tensor_values(column: Column, datatype: Datatype, item: dict[str, Any], n: int, tail: Tail) -> Any:
    """The values of an input, from its JSON or from the binary data. Raises ProtocolError 400, or 422 for long text."""
    data = item.get("data")
    parameters = item.get("parameters")
    if parameters is not None:
        size = _binary_size(column, parameters)
        if size is not None:
            if data is not None:
                raise ProtocolError(400, f"input {column.name!r}: found data and binary_data_size", column.name)
            return _from_binary(column, datatype, tail.take(column, size), n)
    if type(data) is not list:
        raise ProtocolError(400, f"input {column.name!r}: found data {shown(data)}, expected a list", column.name)
    if n == 1 and column.kind == NUMBER and datatype.name == "FP64" and len(data) == 1:  # by far the most frequent
        value = data[0]
        if type(value) is float and value - value == 0.0:
            return np.array(data)
    return _from_json(column, datatype, data, n)


def _from_json(column: Column, datatype: Datatype, data: list[Any], n: int) -> Any:
    size = math.prod(column.shape)
    expected = datatype.says + (f", in an array of shape {[n, *column.shape]}" if column.shape else "")
    if data and type(data[0]) is list:
        if column.shape:
            _check_length(column, len(data), n)
            data = flattened(column, data, column.shape, expected)
        else:  # [n, 1]
            data = flattened(column, data, (1,), expected)
    _check_length(column, len(data), n * size)
    types = set(map(type, data))
    if not types <= datatype.types:
        at = next(i for i, value in enumerate(data) if type(value) not in datatype.types)
        raise refused(column, at // size, data[at], expected)
    _check_kind(column, datatype)
    if int in types and datatype.dtype.kind in "iu":
        whole = data if len(types) == 1 else [value for value in data if value is not None]
        if min(whole) < datatype.low or max(whole) > datatype.high:
            at = next(i for i, v in enumerate(data) if v is not None and not datatype.low <= v <= datatype.high)
            raise refused(column, at // size, data[at], expected)
    if column.shape:
        check_flat(column, data, size, "a number")
    small = datatype.dtype.kind == "f" and datatype.dtype.itemsize < 8
    if not column.shape and not small:
        return from_values(column, data)
    array = np.array(data, dtype=np.float64)
    if small:  # rounded as the binary form of the same tensor is, so that both mean the same
        with np.errstate(over="ignore"):
            rounded = array.astype(datatype.dtype).astype(np.float64)
        lost = np.isinf(rounded) & ~np.isinf(array)
        if lost.any():
            at = int(lost.argmax())
            raise refused(column, at // size, data[at], expected)
        if not column.shape:
            return from_values(column, [None if v is None else r for v, r in zip(data, rounded.tolist(), strict=True)])
        array = rounded
    return from_array(column, array.reshape(n, *column.shape))


def _from_binary(column: Column, datatype: Datatype, data: bytes, n: int) -> Any:
    count = n * math.prod(column.shape)
    if datatype.name == "BYTES":
        _check_kind(column, datatype)
        return from_values(column, read_bytes_elements(data, count, column.name))
    expected = count * datatype.dtype.itemsize
    if len(data) != expected:
        found = f"found {len(data)} bytes, expected {expected} ({count} × {datatype.name})"
        raise ProtocolError(400, f"input {column.name!r}: {found}", column.name)
    _check_kind(column, datatype)
    array = np.frombuffer(data, dtype=np.uint8) != 0 if datatype.name == "BOOL" else np.frombuffer(data, datatype.dtype)
    return from_array(column, array.reshape(n, *column.shape))


def _check_kind(column: Column, datatype: Datatype) -> None:
    is_text = datatype.name == "BYTES"
    if (column.kind in (NUMBER, TENSOR) and is_text) or (column.kind == TIME and not is_text):
        expected = NUMBERS if is_text else "BYTES (ISO 8601)"
        found = f"found datatype {datatype.name}, expected {expected}"
        raise ProtocolError(400, f"input {column.name!r}: {found}", column.name)


def _check_length(column: Column, found: int, expected: int) -> None:
    if found != expected:
        raise ProtocolError(
            400, f"input {column.name!r}: found {found} elements, expected {expected} by its shape", column.name
        )


def _binary_size(column: Column, parameters: Any) -> int | None:
    parameters = optional_object(parameters, f"input {column.name!r}: parameters")
    if "shared_memory_region" in parameters:
        raise ProtocolError(400, f"input {column.name!r}: shared memory is not offered here", column.name)
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        found = f"found binary_data_size {shown(size)}, expected a number of bytes"
        raise ProtocolError(400, f"input {column.name!r}: {found}", column.name)
    return size
