"""From the configuration to an optimiser, the learning rate of every step, and the precision to compute in."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from raymlops.config.training import TrainConfig
from raymlops.errors import ConfigError


def learning_rate_factor(config: TrainConfig, step: int, total: int) -> float:
    """Multiple of the configured learning rate at an optimiser step.

    `cosine`: linear warm-up, then half a cosine to zero. `onecycle`: half a cosine up from 1/25 and then down to
    1/25,000 (Smith & Topin, arXiv:1708.07120).
    """
    if config.schedule == "constant":
        return 1.0
    rise = max(1, round(config.warmup * total))
    start, end = (0.0, 0.0) if config.schedule == "cosine" else (1 / 25, 1 / 25_000)
    if step < rise:
        done = (step + 1) / (rise + 1)
        return done if config.schedule == "cosine" else start + (1 - start) * (1 - math.cos(math.pi * done)) / 2
    done = min(1.0, (step - rise) / max(1, total - rise))
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    if config.precision == "float32":
        return nullcontext()
    if config.precision == "float16" and device.type != "cuda":
        raise ConfigError("train.precision: found 'float16' on a CPU; use bfloat16 or float32 there")
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))
