"""Arrays of numbers as short text, for what is stored as JSON.

Bytes of equal weight stand together, so that those that are always 0 cost nothing, and are compressed; base 85 needs a
quarter more. Nothing in it has to be escaped in JSON.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Single: TypeAlias = NDArray[np.float32]
STEP = 256
"""Steps of fixed-point numbers to a unit."""
MOST = 127.0
_NONE = -(2**15)
"""Stands for minus infinity."""


def pack_counts(values: ArrayLike) -> str:
    """Of whole numbers of any shape, which is not kept."""
    return _pack(np.asarray(values, "<i8"))


def unpack_counts(text: str, shape: Sequence[int]) -> NDArray[np.int64]:
    """Raises ValueError when the text holds something else than numbers of this shape."""
    return _unpack(text, "<i8", shape).astype(np.int64)


def rounded_down(values: ArrayLike, least: float = -MOST) -> Single:
    """To the next multiple of 1/`STEP` below, at most `MOST`; what is below `least` becomes minus infinity."""
    known = np.asarray(values, np.float64)
    down = np.floor(np.clip(known, -MOST, MOST) * STEP) / STEP
    return np.where(known < least, -np.inf, down).astype(np.float32)


def pack_fixed(values: Single) -> str:
    """Of numbers that were `rounded_down`: two bytes each, before they are compressed."""
    return _pack(np.where(np.isneginf(values), _NONE, np.maximum(values, -MOST) * STEP).astype("<i2"))


def unpack_fixed(text: str, shape: Sequence[int]) -> Single:
    """What `pack_fixed` was given. Raises ValueError when the text holds something else."""
    values = _unpack(text, "<i2", shape)
    return np.where(values == _NONE, -np.inf, values / STEP).astype(np.float32)


def _pack(values: NDArray[Any]) -> str:
    planes = values.reshape(-1, 1).view(np.uint8).T.tobytes()
    return base64.b85encode(zlib.compress(planes, 9)).decode()


def _unpack(text: str, kind: str, shape: Sequence[int]) -> NDArray[Any]:
    width, count = np.dtype(kind).itemsize, math.prod(shape)
    stream = zlib.decompressobj()
    try:
        planes = stream.decompress(base64.b85decode(text), width * count + 1)  # no more, whatever the text says
    except zlib.error as error:
        raise ValueError(f"numbers: cannot be unpacked ({error})") from error
    if len(planes) != width * count or not stream.eof:
        raise ValueError(f"numbers: expected {count} of {width} bytes each, found {len(planes)} bytes or more")
    return np.frombuffer(planes, np.uint8).reshape(width, count).T.copy().view(kind).reshape(tuple(shape))
