"""A finished run once more: are data, code and environment those recorded, and do the same weights come out?"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.config.loading import apply_override, parse_config
from raymlops.config.tree import Config
from raymlops.errors import ConfigError, RaymlopsError
from raymlops.imports import add_user_directory, resolve, ship_by_value, user_functions
from raymlops.registry.backend import Tracking
from raymlops.registry.circumstances import MACHINE, present_circumstances, recorded_circumstances
from raymlops.registry.comparison import Row, differences, flat, side_by_side
from raymlops.registry.record import RunRecord
from raymlops.registry.winner import Winner
from raymlops.retraining.collection import SCRATCH
from raymlops.retraining.steps import Steps
from raymlops.retraining.watch import Watch
from raymlops.store import Store

if TYPE_CHECKING:
    import torch

    from raymlops.data.snapshot import Snapshot
    from raymlops.training.trial import TrialContext


@dataclass(frozen=True)
class Reproduction:
    """Left is what was recorded, right what was found. `weights_sha256` is None when nothing could be trained."""

    run_id: str
    name: str
    recorded: str
    weights_sha256: str | None
    differences: list[Row]
    """In snapshot, configuration, code, packages."""
    machine: list[Row]
    """Another machine, which alone is no reason for other weights."""
    seconds: dict[str, float]

    @property
    def equal(self) -> bool:
        """The weights are, to the last bit."""
        return self.weights_sha256 == self.recorded

    @property
    def exact(self) -> bool:
        """Equal weights from nothing but what was recorded."""
        return self.equal and not self.differences

    def to_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "name": self.name,
            "equal": self.equal,
            "exact": self.exact,
            "recorded": self.recorded,
            "weights_sha256": self.weights_sha256,
            "differences": [row.to_dict() for row in self.differences],
            "machine": [row.to_dict() for row in self.machine],
            "seconds": self.seconds,
        }


def reproduce(
    tracking: Tracking,
    store: Store,
    run: str,
    watch: Watch,
    *,
    base: Path | None = None,
    overrides: Sequence[str] = (),
) -> Reproduction:
    """Compare what the run recorded with what is here, then train its winner again and compare the weights.

    `base` is the directory of the user's code where it is not the recorded one; `overrides` change keys of the
    recorded configuration, which is named as a difference. Raises RaymlopsError when the run has not come to a model,
    its record was changed, or training fails.
    """
    steps = Steps(watch)
    with steps.step("record", f"run {run}"):
        record = RunRecord.find(tracking, run)
        winner, recorded = record.winner, record.config
        config = _config(recorded, store, overrides)
        base = base or record.base or Path.cwd()
    with steps.step("compare", "snapshot, code and environment with those recorded"):
        found = side_by_side(flat(recorded), flat(config.model_dump(mode="json", by_alias=True)))
        changed = [Row(f"config {row.key}", row.left, row.right) for row in differences(found) if row.key != "storage"]
        snapshot, damage = _snapshot(record, store)
        functions, digests, missing = _functions(config, base)
        rows = differences(side_by_side(recorded_circumstances(record), present_circumstances(base, digests)))
        others = [*damage, *changed, *(row for row in rows if row.key not in (*MACHINE, *missing)), *missing.values()]
    for reason in _inexact(config):
        watch.note(reason)
    weights = None
    if snapshot is not None and not set(missing) & _needed(config):
        with steps.step("train", f"{winner.trial} again{', on training and validation rows' if winner.refit else ''}"):
            weights = _train(config, winner, snapshot, store, base, functions, tracking)
    machine = [row for row in rows if row.key in MACHINE]
    total = steps.total()
    return Reproduction(record.run_id, record.name, winner.weights_sha256, weights, others, machine, total)


def _config(recorded: Mapping[str, Any], store: Store, overrides: Sequence[str]) -> Config:
    """The recorded configuration with keys changed, over the storage that this process sees."""
    raw: dict[str, Any] = {**recorded, "storage": store.uri}
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw)


def _snapshot(record: RunRecord, store: Store) -> tuple[Snapshot | None, list[Row]]:
    """None, and what is wrong, when a byte of it is not the recorded one."""
    from raymlops.data.snapshot import Snapshot
    from raymlops.data.verifying import check_snapshot

    digest = record.snapshot or ""
    bad = [check for check in check_snapshot(store, digest, record.manifest) if check.status != "verified"]
    if bad:
        return None, [Row(f"snapshot {check.what}", digest, check.detail) for check in bad]
    return Snapshot.open(store, digest), []


def _functions(config: Config, base: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Row]]:
    """The user's functions and their hashes by key path, and a row for each that cannot be imported."""
    from raymlops.data.identity import path_digest

    add_user_directory(base)
    functions, digests, missing = {}, {}, {}
    for name, path in user_functions(config).items():
        try:
            functions[name] = resolve(path, name)
            digests[name] = path_digest(path)
        except ConfigError as error:
            key = f"function {name}"
            missing[key] = Row(key, path, str(error))
    return functions, digests, missing


def _inexact(config: Config) -> list[str]:
    """Why other weights may come out of the same training; told before it begins."""
    import torch

    from raymlops.training.exactness import exactness

    return exactness(config, cuda=config.train.device != "cpu" and torch.cuda.is_available(), concurrent=1)


def _needed(config: Config) -> set[str]:
    """Rows of those that training calls; the others made the snapshot, which is there."""
    names = [name for name in user_functions(config) if not name.startswith(("data.", "labels."))]
    return {f"function {name}" for name in names}


def _train(
    config: Config,
    winner: Winner,
    snapshot: Snapshot,
    store: Store,
    base: Path,
    functions: Mapping[str, Any],
    tracking: Tracking,
) -> str:
    """Hash of the weights. Everything that is written on the way is removed again."""
    from raymlops.cluster import check_shared_storage, connected
    from raymlops.retraining.context import trial_context
    from raymlops.training.checkpoint import FACTS
    from raymlops.training.repetition import repeat_trial
    from raymlops.training.search import share_parts

    path = f"runs/{config.name}/{SCRATCH}{uuid.uuid4().hex}"
    try:
        with connected(config.ray) as cluster:
            check_shared_storage(config, store, cluster.nodes)
            ship_by_value(base)
            start = None if winner.start is None else _start(tracking, config.name, winner.start)
            context: TrialContext = trial_context(config, snapshot, store, path, functions, start)
            handles = share_parts(snapshot, config)
            written = repeat_trial(context, handles, winner.trial, winner.values, winner.epoch, refit=winner.refit)
        return str(json.loads(store.read(f"{written}/{FACTS}"))["weights_sha256"])
    finally:
        store.delete_tree(path)


def _start(tracking: Tracking, name: str, package_sha256: str) -> Mapping[str, torch.Tensor]:
    """The weights that a warm start went on from. Raises RaymlopsError when no version has that package any more."""
    from raymlops.registry.versions import find_version

    for version in tracking.client.search_model_versions(f"name = '{name}'"):
        if dict(version.tags).get("package_sha256") == package_sha256:
            return find_version(tracking, f"{name}/{version.version}").load().module.state_dict()
    raise RaymlopsError(f"model {name!r}: no version has package {package_sha256[:12]}, which its training began with")
