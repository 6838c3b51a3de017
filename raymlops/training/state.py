"""The state of a training under way: where it is and all that it needs to go on to the same bits.

One directory below `PATH/state` per state, named by a number that grows: `tensors.safetensors` and `state.json`, which
is written last and vouches for the tensors and for itself. No random-number state is kept: batches and dropout are
functions of snapshot, seed, epoch and step. The best epoch's weights are not in it either; they are the checkpoint at
PATH, and a state counts only together with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from raymlops.config.training import deciding
from raymlops.config.tree import Config
from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.store import Store
from raymlops.training.checkpoint import FACTS, load_checkpoint

log = logging.getLogger(__name__)

DIRECTORY, TENSORS, STATE = "state", "tensors.safetensors", "state.json"
FORMAT = 1
"""Of what is stored; a state of another format belongs to another training."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass
class Progress:
    """Where a training is."""

    epoch: int = 1
    """The one under way, from 1."""
    step: int = 0
    """Optimiser steps done in it."""
    seconds: float = 0.0
    """Time that the epoch under way took so far."""
    best_epoch: int = 0
    """0 before the first epoch has ended."""
    best_metric: float | None = None
    curves: list[dict[str, Any]] = field(default_factory=list)
    """The reports of the epochs that have ended."""


@dataclass(frozen=True)
class Resumed:
    """What a training goes on from."""

    number: int
    progress: Progress
    tensors: dict[str, torch.Tensor]
    scaler: Mapping[str, Any]
    best: dict[str, torch.Tensor]
    """Weights of `progress.best_epoch`; empty when that is 0."""


def identity_of(snapshot: str, config: Config, start: str | None, refit: bool, until: int | None = None) -> str:
    """A hash of all that decides what a training does; a state with another one belongs to another training.

    `start` is the SHA-256 of the weights that it begins with, `refit` whether it trains on validation rows too, `until`
    the epoch that it is ended after.
    """
    parts = config.model_dump(mode="json", by_alias=True, include={"seed", "task", "model", "train"})
    parts["train"] = deciding(parts["train"])
    how = {"format": FORMAT, "snapshot": snapshot, "start": start, "refit": refit, "until": until}
    text = json.dumps({**parts, **how}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_state(
    store: Store,
    path: str,
    number: int,
    identity: str,
    tensors: Mapping[str, torch.Tensor],
    progress: Mapping[str, Any],
    scaler: Mapping[str, Any],
) -> None:
    """Write one state of the training at `path`. `tensors` are contiguous and on the CPU."""
    directory = f"{path}/{DIRECTORY}/{number:08d}"
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes | memoryview]:
        for piece in safetensors_pieces(tensors):
            digest.update(piece)
            yield piece

    store.write_pieces(f"{directory}/{TENSORS}", pieces(), sync=False)
    facts = {"identity": identity, "tensors_sha256": digest.hexdigest(), "progress": progress, "scaler": scaler}
    vouching = json.dumps({"facts": facts, "sha256": _digest(facts)}, indent=1)
    store.write(f"{directory}/{STATE}", vouching.encode(), sync=False)


def numbers(store: Store, path: str) -> list[int]:
    """The states that are there, valid or not, oldest first."""
    return sorted(int(name) for name in store.list(f"{path}/{DIRECTORY}") if name.isdigit())


def remove_state(store: Store, path: str, number: int) -> None:
    store.delete_tree(f"{path}/{DIRECTORY}/{number:08d}")


def remove_states(store: Store, path: str) -> None:
    """Remove all states of a training that has ended."""
    store.delete_tree(f"{path}/{DIRECTORY}")


def newest_state(store: Store, path: str, identity: str) -> Resumed | None:
    """The newest state that can be used, None when there is none. What cannot be used is logged with the reason and
    removed, so that it does not count among those that are kept; what only cannot be read now stays."""
    for number in reversed(numbers(store, path)):
        try:
            return load_state(store, path, number, identity)
        except RaymlopsError as error:
            log.warning("training state %s/%s/%08d is not used: %s", path, DIRECTORY, number, error)
            if isinstance(error, IntegrityError):
                remove_state(store, path, number)
    return None


def load_state(store: Store, path: str, number: int, identity: str) -> Resumed:
    """Raises IntegrityError or StoreError saying why it cannot be used."""
    directory = f"{path}/{DIRECTORY}/{number:08d}"
    for name in (STATE, TENSORS):
        if not store.exists(f"{directory}/{name}"):
            raise IntegrityError(f"{name} is missing, its writing was not finished")
    try:
        vouching = json.loads(store.read(f"{directory}/{STATE}"))
        facts = vouching["facts"]
        intact = vouching["sha256"] == _digest(facts)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{STATE} is damaged: {error}") from error
    if not intact:
        raise IntegrityError(f"{STATE} is damaged: its hash is not the one that it names")
    if facts["identity"] != identity:
        raise IntegrityError("it belongs to a training with another configuration, snapshot or start")
    data = store.read(f"{directory}/{TENSORS}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts["tensors_sha256"]:
        raise IntegrityError(f"{TENSORS} is damaged: hash {digest[:12]} found, {facts['tensors_sha256'][:12]} expected")
    progress = Progress(**facts["progress"])
    return Resumed(number, progress, load_tensors(data), facts["scaler"], _adopt_best(store, path, identity, progress))


def _adopt_best(store: Store, path: str, identity: str, progress: Progress) -> dict[str, torch.Tensor]:
    """The best weights stored so far. Raises IntegrityError when those that `progress` builds on are not there.

    They may be of a later epoch than the state knows: the training got further before it was killed. That epoch is
    then the best already; trained again to the same bits it brings the same weights, and where it does not, what is
    stored still is what is reported.
    """
    if not store.exists(f"{path}/{FACTS}"):
        if progress.best_epoch:
            raise IntegrityError(f"the checkpoint of epoch {progress.best_epoch}, its best one, is missing")
        return {}
    try:
        weights, facts = load_checkpoint(store, path)
        ours, epoch, metric = facts["identity"] == identity, int(facts["epoch"]), facts["metric"]
    except (RaymlopsError, ValueError, KeyError, TypeError) as error:
        if progress.best_epoch:
            raise IntegrityError(f"its best checkpoint cannot be read: {error}") from error
        return {}
    if not ours or epoch < progress.best_epoch:
        if progress.best_epoch:
            raise IntegrityError(f"the checkpoint of epoch {progress.best_epoch}, its best one, is gone")
        return {}
    progress.best_epoch, progress.best_metric = epoch, metric
    return weights


def safetensors_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor: nothing is copied, and the interpreter's lock is free while
    they are hashed and written, which the library's own writer holds.

    Format: header length (8 bytes, little-endian), JSON header, then the data in the order of the header.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in ordered:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        if tensors[name].numel():
            yield tensors[name].reshape(-1).view(torch.uint8).numpy().data


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
