"""YAML text to a `Config`, with errors that name the key path, the value found and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from raymlops.config.tree import Config
from raymlops.errors import ConfigError

N = TypeVar("N", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a configuration file.

    `overrides` are `a.b.c=value` strings whose value is parsed as YAML. Raises ConfigError listing every problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); expected a YAML file") from None
    raw = _parse_yaml(text, str(path))
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Validate plain data. Raises ConfigError listing every problem."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([_describe(e, Config) for e in error.errors(include_url=False)]) from None


def parse_node(model: type[N], text: str, where: str) -> N:
    """Read another YAML file of ours, with messages as good as the configuration's. Raises ConfigError."""
    raw = _parse_yaml(text, where)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [f"{where}: {_describe(e, model)}" for e in error.errors(include_url=False)]
        raise ConfigError(problems) from None


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader subclass: builds plain values only
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping at the top level, found {type(raw).__name__}")
    return raw


def resolve_local(path: str, base: Path) -> str:
    """A URI as it is; a local path made absolute against `base`."""
    if "://" in path:
        return path
    return str((base / Path(path).expanduser()).resolve())


class _UniqueKeyLoader(yaml.SafeLoader):
    """A key given twice is an error: YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # not hashable: refused below
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one key of plain data, `a.b.c=value` with the value as YAML. Raises ConfigError."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected a.b.c=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None
    node = raw
    for depth, part in enumerate(parts[:-1]):
        # Search-space keys contain dots themselves ("train.learning_rate").
        if parts[: depth + 1] == ["search", "space"]:
            space = node.setdefault(part, {})
            _as_mapping(space, "search.space")[".".join(parts[depth + 1 :])] = value
            return
        if node.get(part) is None:
            node[part] = {}
        node = _as_mapping(node[part], ".".join(parts[: depth + 1]))
    node[parts[-1]] = value


def _as_mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"--set: {path} is {value!r}, not a section with keys below it")
    return value


def _describe(error: Any, root: type[BaseModel]) -> str:
    path, siblings = _walk(root, error["loc"])
    found = error["input"]
    kind = error["type"]
    where = path or "configuration"
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(sorted(siblings))}"
        return f"{where}: unknown key; {hint}"
    if kind == "missing":
        return f"{where}: required, but not given"
    if kind == "union_tag_not_found":
        return f"{where}: lacks the key {error['ctx']['discriminator']}; expected one of the known variants"
    if kind == "union_tag_invalid":
        return f"{where}: found {error['ctx']['tag']!r}, expected one of {error['ctx']['expected_tags']}"
    if kind == "value_error":  # our own validators say what was found themselves
        return f"{where}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{where}: found {_short(found)}; {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _walk(root: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The key path without pydantic's union tags, and the keys known at its last level."""
    parts: list[str] = []
    siblings: list[str] = []
    here: list[Any] = [root]
    for item in loc:
        models = [t for t in here if isinstance(t, type) and issubclass(t, BaseModel)]
        tagged = [m for m in models if item in _tags(m)]
        if tagged:  # a discriminator value, not a key of the file
            here = tagged
            continue
        members = [t for t in here if isinstance(t, type) and t.__name__ == item]
        if members and len(here) > 1:  # the variant of a union that was chosen by its type
            here = members
            continue
        siblings = [name for m in models for name in m.model_fields]
        if isinstance(item, int):
            parts[-1:] = [f"{parts[-1]}[{item}]"] if parts else [f"[{item}]"]
        elif item == "[key]":
            continue
        else:
            parts.append(str(item))
        fields = [m.model_fields[str(item)].annotation for m in models if str(item) in m.model_fields]
        here = _expand(fields or [a for t in here for a in get_args(t)])
    return ".".join(parts), siblings


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    for name in ("kind", "by"):
        if name in model.model_fields:
            return get_args(model.model_fields[name].annotation)
    return ()


def _expand(annotations: Sequence[Any]) -> list[Any]:
    """Unions and Annotated taken apart; lists and dicts kept, so that the next step finds their element types."""
    out: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin in (typing.Union, types.UnionType):
            out.extend(_expand(get_args(annotation)))
        elif origin is typing.Annotated:
            out.extend(_expand(get_args(annotation)[:1]))
        else:
            out.append(annotation)
    return out
