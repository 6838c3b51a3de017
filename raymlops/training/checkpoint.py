"""Checkpoints: safetensors for weights, JSON for everything else, the JSON written last so that it vouches for both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from raymlops.errors import IntegrityError
from raymlops.store import Store

WEIGHTS, FACTS = "weights.safetensors", "checkpoint.json"


def weights_bytes(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Deterministic bytes of named tensors: sorted by name, contiguous, on the CPU, no metadata."""
    return bytes(save_tensors({name: weights[name].detach().cpu().contiguous().clone() for name in sorted(weights)}))


def save_checkpoint(store: Store, path: str, weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> str:
    """Write weights and facts below `path`; returns the SHA-256 of the weights file."""
    data = weights_bytes(weights)
    digest = hashlib.sha256(data).hexdigest()
    store.write(f"{path}/{WEIGHTS}", data, sync=False)
    vouching = json.dumps({**facts, "weights_sha256": digest}, indent=1, sort_keys=True)
    store.write(f"{path}/{FACTS}", vouching.encode(), sync=False)
    return digest


def load_checkpoint(store: Store, path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and facts. Raises IntegrityError when the weights are not the ones that the facts vouch for."""
    facts = json.loads(store.read(f"{path}/{FACTS}"))
    data = store.read(f"{path}/{WEIGHTS}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts["weights_sha256"]:
        raise IntegrityError(
            f"{store.location(path)}/{WEIGHTS}: hash {digest[:12]} found, {facts['weights_sha256'][:12]} expected; "
            "the checkpoint is damaged"
        )
    return load_tensors(data), facts
