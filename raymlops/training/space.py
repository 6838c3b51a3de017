"""The search space: from the configuration to Tune, and from a trial's parameters back to a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raymlops.config.loading import parse_config
from raymlops.config.training import Dimension
from raymlops.config.tree import Config
from raymlops.errors import ConfigError


def tune_space(space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Dimensions as Tune understands them. Choices are drawn by index, so that any YAML value may be one."""
    from ray import tune

    def convert(dimension: Dimension) -> Any:
        if dimension.uniform is not None:
            return tune.uniform(*dimension.uniform)
        if dimension.loguniform is not None:
            return tune.loguniform(*dimension.loguniform)
        if dimension.integer is not None:
            return tune.randint(dimension.integer[0], dimension.integer[1] + 1)
        if dimension.choice is not None:
            return tune.choice(list(range(len(dimension.choice))))
        assert dimension.grid is not None
        return tune.grid_search(list(range(len(dimension.grid))))

    return {path: convert(dimension) for path, dimension in space.items()}


def decode(space: Mapping[str, Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn numbers to the values that the configuration takes."""
    values: dict[str, Any] = {}
    for path, dimension in space.items():
        listed = dimension.choice if dimension.choice is not None else dimension.grid
        values[path] = drawn[path] if listed is None else listed[int(drawn[path])]
    return values


def encode(space: Mapping[str, Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `decode`, of values that may have been stored as JSON in between."""
    drawn: dict[str, Any] = {}
    for path, dimension in space.items():
        listed = dimension.choice if dimension.choice is not None else dimension.grid
        drawn[path] = values[path] if listed is None else [as_text(v) for v in listed].index(as_text(values[path]))
    return drawn


def as_text(value: Any) -> str:
    """What is compared to tell whether two values are the same: choices may be anything that YAML can say."""
    return json.dumps(value, sort_keys=True, default=str)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration of one trial. Raises ConfigError when a value is not allowed at its path."""
    raw = config.model_dump(by_alias=True)
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = raw
        for part in parents:
            child = node.get(part)
            if child is None:
                child = node[part] = {}
            node = child
        node[leaf] = value
    return parse_config(raw)


def check_space(config: Config) -> None:
    """Every dimension names a path below `train` or `model` and stays inside what is allowed there.

    Raises ConfigError listing every problem. Both ends of ranges and every choice are tried.
    """
    problems = []
    for path, dimension in config.search.space.items():
        if path.split(".")[0] not in ("train", "model") or "." not in path:
            problems.append(f"search.space.{path}: expected a path below train or model, such as train.learning_rate")
            continue
        given = dimension.model_dump(exclude_none=True, by_alias=True)
        for value in next(iter(given.values())):
            try:
                with_values(config, {path: value})
            except ConfigError as error:
                problems.append(f"search.space.{path}: {error}")
                break
    if problems:
        raise ConfigError(problems)


def trial_count(config: Config) -> int:
    """Number of trials that the search will run: a grid multiplies."""
    count = config.search.trials
    for dimension in config.search.space.values():
        count *= len(dimension.grid) if dimension.grid is not None else 1
    return count


def most_epochs(config: Config) -> int:
    """The longest training that any trial may ask for."""
    dimension = config.search.space.get("train.epochs")
    if dimension is None:
        return config.train.epochs
    given = dimension.model_dump(exclude_none=True, by_alias=True)
    return int(max(next(iter(given.values()))))
