"""Why a step runs again, in a person's words: its inputs now beside those of the last time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raymlops.retraining.inputs import Inputs

MOST = 4
"""Differences that are told; the others are counted."""
SILENT = ("from", "job")


def differences(before: Inputs, now: Inputs) -> list[str]:
    """One phrase per input that is not what it was, but for what other steps made and whose job it is."""
    return [
        phrase
        for group in dict.fromkeys([*now, *before])
        if group not in SILENT
        for phrase in _of_group(group, before.get(group, {}), now.get(group, {}))
    ]


def sentence(phrases: list[str]) -> str:
    """The phrases in a line."""
    more = [f"{len(phrases) - MOST} more"] if len(phrases) > MOST else []
    return ", ".join(phrases[:MOST] + more)


def _of_group(group: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if group == "config":
        yield from _of_config("", before, now)
    elif group == "rules":
        if before != now:
            yield "the contract changed" if before and now else f"there is {'a' if now else 'no'} contract now"
    elif group == "start":
        if before != now:
            yield "the weights to start from changed"
    else:
        yield from _of_names(group, before, now)


def _of_names(group: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    what = "function " if group == "function" else ""
    for name in dict.fromkeys([*now, *before]):
        if name not in before:
            yield f"{what}{name} is new"
        elif name not in now:
            yield f"{what}{name} is gone"
        elif before[name] != now[name]:
            yield f"{name} {before[name]} → {now[name]}" if group == "version" else f"{what}{name} changed"


def _of_config(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*now, *before]):
        here = f"{path}.{name}" if path else name
        if name not in before or name not in now:
            yield f"{here} is {'new' if name in now else 'gone'}"
        elif isinstance(before[name], Mapping) and isinstance(now[name], Mapping):
            yield from _of_config(here, before[name], now[name])
        elif before[name] != now[name]:
            yield _of_value(here, before[name], now[name])
    if before.keys() == now.keys() and list(before) != list(now):
        yield f"the order of {path} changed"


def _of_value(path: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping | list) or isinstance(now, Mapping | list):
        return f"{path} changed"
    return f"{path}: {_shown(before)} → {_shown(now)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
