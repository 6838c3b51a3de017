"""The training loop: one model, one configuration, batches in, the best weights out. Knows nothing of Ray or MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from raymlops.config.training import TrainConfig
from raymlops.errors import ConfigError, RaymlopsError
from raymlops.training.batches import Batch, Rows, batch_bounds
from raymlops.training.objective import LossFunction, ValidationMetric, scores

EVALUATION_BATCH = 8192


class TrainingDiverged(RaymlopsError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class EpochReport:
    """One epoch's numbers. `metric` is the validation metric in the target's own units, None without validation."""

    epoch: int
    train_loss: float
    learning_rate: float
    seconds: float
    metric: float | None
    best_metric: float | None
    best_epoch: int
    last: bool
    """No further epoch follows."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    weights: dict[str, torch.Tensor]
    """The best epoch's weights (the last epoch's without validation), on the CPU."""
    best_epoch: int
    best_metric: float | None
    epochs: int


@dataclass(frozen=True)
class Target:
    """How raw regression outputs return to the target's units; the identity for classes."""

    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Objective:
    task: str
    loss: LossFunction
    metric: ValidationMetric
    target: Target = Target()


def pick_device(wanted: str) -> torch.device:
    """Raises ConfigError when CUDA is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device: found 'cuda', but no CUDA device is visible here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    config: TrainConfig,
    objective: Objective,
    rows: Rows,
    validation: Rows | None,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[EpochReport, dict[str, torch.Tensor] | None], None],
    rank: int = 0,
    workers: int = 1,
) -> Trained:
    """Train `model` (already on `device`, already wrapped for data-parallel work when `workers` > 1).

    `on_epoch` gets each epoch's report and, when the epoch is the best so far, its weights. Raises TrainingDiverged.
    """
    bounds = batch_bounds(rows.rows, config.batch_size, workers)
    total_steps = config.epochs * len(bounds)
    optimizer = _optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(config, step, total_steps)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    best: dict[str, torch.Tensor] = {}
    best_metric: float | None = None
    best_epoch = waited = 0
    epoch = 0
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        # A tensor sum, read once per epoch: reading every step would stall an accelerator.
        loss_sum = torch.zeros((), device=device)
        for step, batch in enumerate(rows.epoch(seed, epoch, config.batch_size, rank, workers)):
            inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            targets = inputs.pop("target")
            low, high = bounds[step]
            # DDP averages over workers; this weight makes that average the mean over the rows of the whole batch.
            weight = len(targets) * workers / (high - low)
            with _autocast(config, device):
                loss = objective.loss(model(inputs), targets) * weight
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            loss_sum += loss.detach()
        train_loss = loss_sum.item() / len(bounds)
        if not math.isfinite(train_loss):
            raise TrainingDiverged(
                f"the training loss became {train_loss} in epoch {epoch} (learning rate {config.learning_rate:g}); "
                "lower train.learning_rate or set train.clip_norm"
            )
        metric = None if validation is None else validate(model, validation, objective, config, device)
        improved = metric is None or objective.metric.better(metric, best_metric, _min_delta(config))
        if improved or not best:
            best = {name: tensor.detach().cpu().clone() for name, tensor in _plain(model).state_dict().items()}
            best_metric, best_epoch, waited = metric, epoch, 0
        else:
            waited += 1
        seconds = time.perf_counter() - started
        rate = schedule.get_last_lr()[0]
        impatient = config.early_stopping is not None and waited >= config.early_stopping.patience
        last = impatient or epoch == config.epochs
        report = EpochReport(epoch, train_loss, float(rate), seconds, metric, best_metric, best_epoch, last)
        on_epoch(report, best if best_epoch == epoch else None)
        if last:
            break
    return Trained(best, best_epoch, best_metric, epoch)


def validate(model: nn.Module, rows: Rows, objective: Objective, config: TrainConfig, device: torch.device) -> float:
    """The validation metric over all rows, in the target's own units."""
    model.eval()
    outputs, targets = [], []
    with torch.inference_mode(), _autocast(config, device):
        for batch in rows.ordered(EVALUATION_BATCH):
            inputs: Batch = {name: tensor.to(device) for name, tensor in batch.items()}
            targets.append(inputs.pop("target").cpu().numpy())
            outputs.append(_plain(model)(inputs).float().cpu().numpy())
    unit = objective.target
    true = np.concatenate(targets)
    if objective.task == "regression":
        true = true.astype(np.float64) * unit.scale + unit.mean
    return objective.metric(true, scores(np.concatenate(outputs), objective.task, unit.mean, unit.scale))


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


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    if config.precision == "float32":
        return nullcontext()
    if config.precision == "float16" and device.type != "cuda":
        raise ConfigError("train.precision: found 'float16' on a CPU; use bfloat16 or float32 there")
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def _plain(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _min_delta(config: TrainConfig) -> float:
    return config.early_stopping.min_delta if config.early_stopping is not None else 0.0
