"""The training loop that somebody would write by hand: the same model and arithmetic, none of raymlops' machinery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from raymlops.config.tree import Config
from raymlops.features.state import ArraySpec
from raymlops.training.models import build_model
from raymlops.training.space import with_values
from raymlops.training.trial import TrialContext

Parts = Mapping[str, Mapping[str, np.ndarray]]
EVALUATION_BATCH = 8192


def warm_up() -> None:
    """One optimiser step: its first use makes torch import its compiler, which takes as long as torch itself."""
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.zeros(2, 1)).sum().backward()
    optimizer.step()


def load_parts(context: TrialContext) -> dict[str, dict[str, np.ndarray]]:
    """Encoded training and validation arrays, read from the snapshot's files."""
    parts = {}
    for part in ("train", "validation"):
        shards = [context.snapshot.load_shard(shard) for shard in context.snapshot.shards(part)]
        parts[part] = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    return parts


def train_plainly(
    config: Config,
    spec: ArraySpec,
    values: Mapping[str, Any],
    parts: Parts,
    target_scale: float,
    report: Callable[[int, float, float], bool],
) -> None:
    """Train one configuration on tensors in memory.

    `report(epoch, validation MAE, seconds in epochs so far)` says after every epoch whether to stop. No checkpoint is
    written, which a real search could not do without.
    """
    torch.manual_seed(config.seed)
    config = with_values(config, values)
    train = {name: torch.from_numpy(np.array(array)) for name, array in parts["train"].items()}
    validation = {name: torch.from_numpy(np.array(array)) for name, array in parts["validation"].items()}
    rows, size, epochs = len(train["target"]), config.train.batch_size, config.train.epochs
    model = build_model(config.model, spec)
    rate = config.train.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=config.train.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        rate,
        total_steps=epochs * -(-rows // size) + 1,
        pct_start=config.train.warmup,
        div_factor=25,
        final_div_factor=1000,
        cycle_momentum=False,
    )
    spent = 0.0
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        model.train()
        for index in torch.randperm(rows).split(size):
            batch = {name: tensor[index] for name, tensor in train.items()}
            loss = nn.functional.l1_loss(model(batch), batch["target"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm or float("inf"))
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            batches = range(0, len(validation["target"]), EVALUATION_BATCH)
            cut = [{name: t[low : low + EVALUATION_BATCH] for name, t in validation.items()} for low in batches]
            predicted = torch.cat([model(batch) for batch in cut])
            error = float((predicted - validation["target"]).abs().mean()) * target_scale
        spent += time.perf_counter() - started
        if report(epoch, error, spent):
            return
