"""What each step of a job reads, by name, and the key that this makes. Pure.

A step's key is a hash of its inputs, so whatever is not named here does not make a step run again: the configuration's
comments and layout, the sections that only serving reads, how often checkpoints are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from raymlops.config.training import deciding
from raymlops.retraining.facts import Facts

StepName = Literal["snapshot", "search", "refit", "gate", "register", "report"]
STEPS: tuple[StepName, ...] = get_args(StepName)
ON_RAY = ("snapshot", "search", "refit")
PARTS = ("profile", "contract", "features")
"""Made in the one pass over the data that also makes the snapshot: reading it once per part would cost more than all of
them together. Each part has a key of its own, which says what made the pass necessary."""

Inputs = dict[str, dict[str, Any]]
"""Group (`config`, `source`, `function`, `version`, …) to name to plain value."""

Outputs = Mapping[StepName, Mapping[str, Any]]
"""What the steps so far made."""

ELSEWHERE = ("serving", "rollout", "labels", "monitoring", "retraining", "ray", "storage", "storage_shared")
"""Sections that no step of a job reads, or that only say where it runs."""


def steps_of(config: Mapping[str, Any]) -> list[StepName]:
    """The steps that this configuration has, in order."""
    return [step for step in STEPS if step != "refit" or config["search"]["refit"]]


def key_of(inputs: Inputs) -> str:
    """Order counts: that of features is that of columns, that of the search space decides what is drawn."""
    return hashlib.sha256(json.dumps(inputs, default=str).encode()).hexdigest()


def job_key(facts: Facts) -> str:
    """What makes two runs the same job: the configuration as far as its steps read it, and what it was ordered for."""
    config = {name: value for name, value in facts.config.items() if name not in ELSEWHERE}
    data = {name: value for name, value in config["data"].items() if name != "in_memory_share"}
    return key_of({"config": {**config, "data": data, "train": deciding(config["train"])}, "for": dict(facts.tags)})


def part_inputs(part: str, facts: Facts) -> Inputs:
    """What a part of the snapshot reads of the outside; the parts also read each other."""
    if part == "profile":
        where = _picked(facts.config, "data.source", "data.columns", "data.split", "data.time_column")
        return {"config": where, "source": dict(facts.source or {}), "function": _functions(facts, "data.source")}
    if part == "contract":
        rules = {} if facts.contract is None else {"contract": facts.contract}
        return {"config": _picked(facts.config, "data.contract"), "rules": rules}
    chosen = _picked(facts.config, "task", "data.target", "data.time_column", "data.split", "features")
    return {"config": chosen, "function": _functions(facts, "features"), "start": _start(facts)}


def own_inputs(step: StepName, facts: Facts) -> Inputs:
    """What the step reads of the outside."""
    if step == "snapshot":
        parts = [part_inputs(part, facts) for part in PARTS]
        ours: Inputs = {"config": _picked(facts.config, "data.shard_rows"), "version": _versions(facts, "raymlops")}
        return _merged([*parts, ours])
    if step in ("search", "refit"):
        search = {k: v for k, v in facts.config["search"].items() if k != "refit"} if step == "search" else None
        config = {**_picked(facts.config, "task", "seed", "model"), "train": deciding(facts.config["train"])}
        return {
            "config": config if search is None else {**config, "search": search},
            "function": _functions(facts, "model.", "train."),
            "start": _start(facts),
            "version": dict(facts.versions),
        }
    if step == "gate":
        config = _picked(
            facts.config, "name", "task", "seed", "data.target", "features", "model", "train.metric", "gate"
        )
        functions = _functions(facts, "features", "model.", "train.metric")
        job = {"job": job_key(facts), "values": dict(facts.values)}
        return {"config": config, "function": functions, "job": job, "version": _versions(facts, "raymlops")}
    return {"config": _picked(facts.config, "tracking"), "version": _versions(facts, "raymlops")}


def inputs_of(step: StepName, facts: Facts, outputs: Outputs) -> Inputs:
    """Everything that the step reads; `outputs` are those of the steps before it."""
    return {"from": _upstream(step, outputs), **own_inputs(step, facts)}


def _upstream(step: StepName, outputs: Outputs) -> dict[str, Any]:
    if step == "snapshot":
        return {}
    snapshot = {"snapshot": outputs["snapshot"]["hash"]}
    if step == "search":
        return snapshot
    winner = outputs["search"]["winner"]
    if step == "refit":
        return {**snapshot, "values": winner["values"], "epochs": winner["epoch"]}
    if step == "gate":
        weights = outputs.get("refit", winner)
        return {**snapshot, "values": winner["values"], "weights": weights["weights_sha256"]}
    package = {"package": outputs["gate"]["package_sha256"]}
    return package if step == "register" else {**package, "version": outputs["register"]["version"]}


def _picked(config: Mapping[str, Any], *paths: str) -> dict[str, Any]:
    """The named sections and keys, at their places."""
    found: dict[str, Any] = {}
    for path in paths:
        *parents, leaf = path.split(".")
        place, given = found, config
        for name in parents:
            place, given = place.setdefault(name, {}), given[name]
        place[leaf] = given[leaf]
    return found


def _functions(facts: Facts, *fields: str) -> dict[str, str]:
    chosen = [pair for field, pair in facts.functions.items() if field.startswith(fields)]
    return dict(sorted(chosen))


def _versions(facts: Facts, *names: str) -> dict[str, str]:
    return {name: facts.versions[name] for name in names}


def _start(facts: Facts) -> dict[str, str]:
    return {} if facts.start is None else {"weights": facts.start}


def _merged(parts: Iterable[Inputs]) -> Inputs:
    """Groups of the same name together, nested sections too."""
    merged: Inputs = {}
    for part in parts:
        for group, values in part.items():
            _merge(merged.setdefault(group, {}), values)
    return merged


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value
