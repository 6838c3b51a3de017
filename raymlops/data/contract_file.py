"""Where a model's contract is, and what it says."""

from __future__ import annotations

from pathlib import Path

from raymlops.config.loading import resolve_local
from raymlops.config.tree import Config
from raymlops.data.contract import Contract
from raymlops.store import Store


def current_contract(config: Config, base: Path, store: Store) -> Contract | None:
    """The contract that the next snapshot must keep; None before there is one. Raises ConfigError when it is none."""
    return read_contract(*contract_place(config, base, store))


def contract_place(config: Config, base: Path, store: Store) -> tuple[Store, str]:
    """The store and the path in it: below `storage` unless the configuration names a file."""
    path = config.data.contract.path
    if path is None:
        return store, f"contracts/{config.name}.yaml"
    folder, _, name = resolve_local(path, base).rpartition("/")
    return Store(folder or "/"), name


def read_contract(store: Store, path: str) -> Contract | None:
    """None before there is one."""
    if not store.exists(path):
        return None
    return Contract.from_yaml(store.read(path).decode(errors="replace"), store.location(path))
