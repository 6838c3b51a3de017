"""What a job depends on besides its own steps: looked up without Ray, without torch and without running user code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops import __version__
from raymlops.config.tree import Config
from raymlops.data.contract_file import current_contract
from raymlops.data.fingerprint import Fingerprint, Memory, fingerprint
from raymlops.data.identity import path_digest
from raymlops.imports import user_functions
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.package import ModelPackage

TRAINERS = ("torch", "numpy")
"""Packages whose version may change what comes out of training."""


@dataclass(frozen=True)
class Facts:
    """Plain values; equal facts mean that the same steps would give the same."""

    config: dict[str, Any]
    """The configuration as JSON."""
    functions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Key path in the configuration to import path and digest of the code behind it."""
    source: dict[str, str] | None = None
    """Files or table and what they hold; None when that can only be known by reading."""
    contract: str | None = None
    """Digest of the contract that is in force; None before there is one."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of raymlops and of the packages that train."""
    start: str | None = None
    """Digest of the weights and features that training goes on from."""
    tags: dict[str, str] = field(default_factory=dict)
    """What the job was ordered for: two retrainings are two jobs, however equal."""
    values: dict[str, Any] = field(default_factory=dict)
    """What an earlier search found and this job takes over."""


def gather(
    config: Config,
    base: Path,
    store: Store,
    memory: Memory,
    tags: Mapping[str, str],
    values: Mapping[str, Any],
    start: ModelPackage | None,
) -> tuple[Facts, Fingerprint | None]:
    """The facts now, and the source's fingerprint. Raises DataError when the source does not exist, ConfigError for a
    contract that is none."""
    found = fingerprint(config.data, base, memory)
    facts = Facts(
        config=config.model_dump(mode="json", by_alias=True),
        functions={field: (path, path_digest(path)) for field, path in user_functions(config).items()},
        source=None if found is None else found.parts,
        versions={"raymlops": __version__, **{name: metadata.version(name) for name in TRAINERS}},
        start=None if start is None else _digest([start.manifest["weights_sha256"], start.transform.state.to_json()]),
        tags=dict(tags),
        values=dict(values),
    )
    return with_contract(facts, config, base, store), found


def with_contract(facts: Facts, config: Config, base: Path, store: Store) -> Facts:
    """The same with the contract that is in force now: the first snapshot writes it."""
    contract = current_contract(config, base, store)
    return replace(facts, contract=None if contract is None else _digest(contract.model_dump(mode="json")))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
