"""The datatypes of the Open Inference Protocol, and how BYTES elements are laid out."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from raymlops.serving.protocol.columns import TEXT_CHARS
from raymlops.serving.protocol.errors import ProtocolError

_LENGTH = struct.Struct("<I")


class Datatype(NamedTuple):
    """`dtype` is little endian, as the binary extension wants it. `types` are what JSON values may be."""

    name: str
    dtype: np.dtype
    types: frozenset[type]
    says: str
    low: int = 0
    high: int = 0
    """Of whole numbers."""


def _datatypes() -> dict[str, Datatype]:
    missing = type(None)  # null is a missing value, where the features fill those
    found = {
        "BOOL": Datatype("BOOL", np.dtype(np.bool_), frozenset((bool, missing)), "true or false"),
        "BYTES": Datatype("BYTES", np.dtype(object), frozenset((str, missing)), "text"),
    }
    for bits in (8, 16, 32, 64):
        for letter, name in (("u", "UINT"), ("i", "INT")):
            dtype = np.dtype(f"<{letter}{bits // 8}")
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
            says = f"a whole number from {low} to {high}"
            found[f"{name}{bits}"] = Datatype(f"{name}{bits}", dtype, frozenset((int, missing)), says, low, high)
    for bits in (16, 32, 64):
        dtype = np.dtype(f"<f{bits // 8}")
        says = f"a finite number of {bits} bits"
        found[f"FP{bits}"] = Datatype(f"FP{bits}", dtype, frozenset((float, int, missing)), says)
    return found


DATATYPES = _datatypes()


def read_bytes_elements(data: bytes, count: int, field: str) -> list[str]:
    """`count` texts, each a length of four bytes (little endian) and as many bytes of UTF-8, and nothing after them.

    Raises ProtocolError 400 when the data is anything else, 422 for a text that is too long.
    """
    texts, at, end = [], 0, len(data)
    if 4 * count > end:
        raise ProtocolError(400, f"input {field!r}: found {end} bytes, expected {count} BYTES elements", field)
    for index in range(count):
        if at + 4 > end:
            raise ProtocolError(400, f"input {field!r}: found {index} BYTES elements, expected {count}", field)
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if at + length > end:
            found = f"found a length of {length} bytes where {end - at} are left"
            raise ProtocolError(400, f"input {field!r}, element {index}: {found}", field)
        if length > 4 * TEXT_CHARS:
            found = f"found text of {length} bytes, expected at most {TEXT_CHARS} characters"
            raise ProtocolError(422, f"input {field!r}, element {index}: {found}", field)
        try:
            texts.append(data[at : at + length].decode())
        except UnicodeDecodeError:
            raise ProtocolError(400, f"input {field!r}, element {index}: not UTF-8 text", field) from None
        at += length
    if at != end:
        raise ProtocolError(400, f"input {field!r}: found {end - at} bytes after {count} BYTES elements", field)
    return texts


def write_bytes_elements(texts: Iterable[str]) -> bytes:
    """The inverse of `read_bytes_elements`."""
    parts: list[bytes] = []
    for text in texts:
        data = text.encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)
