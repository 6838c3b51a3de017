"""Code as users write it: factories that misbehave on demand, a loss and a metric of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.train import UserCallback
from torch import nn

from raymlops.store import Store
from raymlops.training.ddp import release_workers


class Linear(nn.Module):
    def __init__(self, numeric: int, poison: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(numeric, 1)
        self.poison = poison

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.layer(inputs["numeric"]).squeeze(1)
        return out * float("nan") if self.poison else out


class Watched(nn.Module):
    """Notes each step of its training in a file (rank 1 when there are two) and is killed once after `at` of them."""

    def __init__(self, numeric: int, folder: str, at: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(numeric, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.folder, self.at = Path(folder), at

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.training and not (torch.distributed.is_initialized() and torch.distributed.get_rank() == 0):
            with (self.folder / "steps").open("a") as notes:
                notes.write(".")
            if steps_of(self.folder) == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
        out: torch.Tensor = self.layers(inputs["numeric"]).squeeze(1)
        return out


def steps_of(folder: Path) -> int:
    return (folder / "steps").stat().st_size


def build(spec: Any, mode: str = "good", folder: str = "", at: int = 0) -> nn.Module:
    if mode == "watched":
        return Watched(spec.numeric, folder, at)
    if mode == "raise":
        raise RuntimeError("no weights for this weather")
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel's out-of-memory killer does
    if mode == "not a module":
        return "surprise"  # type: ignore[return-value]
    return Linear(spec.numeric, poison=mode == "nan")


class Releasing(UserCallback):
    """Frees the workers of a trial after their first report, as a search does that ends it there."""

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        release_workers(self.store, self.path)


def pinball(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss of the 0.9 quantile."""
    error = targets - predictions
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def within_one(predictions: np.ndarray, targets: np.ndarray) -> float:
    return float((np.abs(predictions - targets) <= 1).mean())


within_one.greater_is_better = True  # type: ignore[attr-defined]
