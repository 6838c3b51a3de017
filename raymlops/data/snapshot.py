"""Snapshots: content-addressed, immutable data sets, ready to train on.

STORAGE/snapshots/HASH/
    manifest.json            written last: it vouches for every other file by hash, and its presence means "complete"
    RUN/                     what the run that wrote the manifest has written
        profile.json, profile.sketches, contract.yaml, features.json
        rows/PART-00000.parquet          raw rows in canonical order
        encoded/PART-00000.safetensors   the same rows as arrays

Canonical order is by row id, a hash of the content. Shard i holds the i-th of equal ranges of ids. Both are the same
for every file layout and machine, and leave rows in an order that is already shuffled.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_arrays

from raymlops.data.profile import Profile
from raymlops.data.split import PARTS
from raymlops.errors import IntegrityError
from raymlops.features.state import FeatureState
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.data.contract import Contract

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One stored shard of encoded rows."""

    path: str
    """Below the directory that the manifest names."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot; may be sent to workers."""

    store: Store
    hash: str
    manifest: dict[str, Any]

    @classmethod
    def open(cls, store: Store, digest: str) -> Snapshot:
        """Raises StoreError when there is no such snapshot."""
        return cls(store, digest, json.loads(store.read(f"{directory(digest)}/manifest.json")))

    @property
    def rows(self) -> dict[str, int]:
        """Rows by part."""
        return dict(self.manifest["rows"])

    @cached_property
    def _state(self) -> FeatureState:
        return FeatureState.from_json(self._read("features.json").decode())

    def state(self) -> FeatureState:
        return self._state

    def profile(self) -> Profile:
        return Profile.from_bytes(self._read("profile.json"), self._read("profile.sketches"))

    def shards(self, part: str) -> list[Shard]:
        """Encoded shards of `train`, `validation` or `holdout`, in canonical order."""
        files = self.manifest["files"]
        names = sorted(name for name in files if name.startswith(f"encoded/{part}-"))
        return [Shard(name, **files[name]) for name in names]

    def load_shard(self, shard: Shard) -> dict[str, np.ndarray]:
        """Arrays of one shard, keys as in `Transform.batch` and `target`. Raises IntegrityError when it was changed."""
        return dict(load_arrays(self._read(shard.path)))

    def encoded_bytes(self, part: str) -> int:
        return sum(shard.bytes for shard in self.shards(part))

    def table(self, part: str) -> pa.Table:
        """Raw rows of a part in canonical order."""
        return pa.concat_tables(self.tables(part))

    def tables(self, part: str) -> Iterator[pa.Table]:
        """The same, a shard at a time."""
        for name in sorted(name for name in self.manifest["files"] if name.startswith(f"rows/{part}-")):
            yield pq.read_table(io.BytesIO(self._read(name)))

    def _read(self, name: str) -> bytes:
        path = f"{directory(self.hash)}/{self.manifest['directory']}/{name}"
        data = self.store.read(path)
        found, expected = hashlib.sha256(data).hexdigest(), self.manifest["files"][name]["sha256"]
        if found != expected:
            raise IntegrityError(f"{self.store.location(path)}: hash {found[:12]} found, {expected[:12]} expected")
        return data


@dataclass(frozen=True)
class BuiltSnapshot:
    """A snapshot and what was found out on the way to it."""

    snapshot: Snapshot
    profile: Profile
    contract: Contract
    contract_inferred: bool
    reused: bool
    source: dict[str, Any]
    """What was read this time; the manifest of a reused snapshot names what was read when it was written."""
    excluded: int
    """Rows outside the split's start and end."""
    quarantined: int
    quarantine_path: str | None
    new_categories: dict[str, list[str]]
    """Values that the contract does not list, by column; the features treat them by their own rules."""


def directory(digest: str) -> str:
    return f"snapshots/{digest}"


def digest_of(identity: Mapping[str, Any]) -> str:
    """The snapshot's name: a hash of everything that its files depend on.

    Keys keep their order: the order in which features are declared is the order of the encoded columns.
    """
    return hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()


def describe_file(data: bytes, rows: int) -> dict[str, Any]:
    return {"rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def shard_count(rows: int, shard_rows: int) -> int:
    return max(1, -(-rows // shard_rows))


def row_counts(pieces: Mapping[str, list[tuple[str, int]]]) -> dict[str, int]:
    return {part: sum(rows for _, rows in pieces.get(part, [])) for part in PARTS}


def assemble(snapshot: Snapshot, part: str) -> dict[str, np.ndarray]:
    """All encoded rows of a part in canonical order; placed here so that a worker that runs it imports little."""
    shards = [snapshot.load_shard(shard) for shard in snapshot.shards(part)]
    return shards[0] if len(shards) == 1 else {n: np.concatenate([s[n] for s in shards]) for n in shards[0]}
