"""A data source and a model factory of one's own: everything that a new kind of data needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    import ray.data

    from raymlops.features.state import ArraySpec


def load() -> ray.data.Dataset:
    """The 1,797 digits as a Ray Dataset with columns id, image (8, 8) and digit."""
    import ray.data
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = zip(digits.images, digits.target, strict=True)
    return ray.data.from_items(
        [{"id": i, "image": image.astype("float32"), "digit": str(label)} for i, (image, label) in enumerate(rows)]
    )


class SmallConvNet(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * 16, classes),
        )

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.layers(inputs["image"])
        return out


def build(spec: ArraySpec, channels: int = 16) -> nn.Module:
    return SmallConvNet(channels, spec.outputs)
