"""Values as MLflow and JSON take them: bounded, finite, with names of the allowed characters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

MAX_VALUE = 500
"""Longest parameter value; MLflow's tables are no place for more, config.yaml has it all."""


def flat_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration as `a.b.c` → text. Features and their details are listed, one parameter per kind."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value and not prefix.startswith("features."):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, Mapping):
            flat[key_of(prefix)] = ", ".join(map(str, value))
        else:
            flat[key_of(prefix)] = value if isinstance(value, str) else json.dumps(value)

    walk("", config)
    return flat


def key_of(name: str) -> str:
    """A name as MLflow allows it: letters, digits and `_ - . / : space`, at most 250 characters."""
    return re.sub(r"[^\w\-./: ]", "_", name)[:250]


def cut(value: Any, limit: int = MAX_VALUE) -> str:
    """Text of at most `limit` characters; what was left out is counted at its end."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= limit:
        return text
    return f"{text[: limit - 40]}… [{len(text):,} characters in all]"


def dump(value: Any) -> str:
    """JSON that any reader takes: NaN and infinities become null."""
    return json.dumps(finite(value), indent=1, default=str, allow_nan=False, ensure_ascii=False)


def finite(value: Any) -> Any:
    """Plain data with NaN and infinities replaced by None."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
