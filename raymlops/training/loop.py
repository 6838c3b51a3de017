"""The training loop: one model, one configuration, batches in, the best weights out. Knows nothing of Ray or MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from raymlops.config.training import TrainConfig
from raymlops.errors import ConfigError, RaymlopsError
from raymlops.training.batches import Batch, Rows, batch_bounds, generator
from raymlops.training.keeper import StateWriter
from raymlops.training.live import Live
from raymlops.training.objective import LossFunction, ValidationMetric, scores
from raymlops.training.optimizer import autocast, build_optimizer, learning_rate_factor
from raymlops.training.state import Progress, Resumed

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
    resumed: Resumed | None = None,
    states: StateWriter | None = None,
    until: int | None = None,
) -> Trained:
    """Train `model` (already on `device`, already wrapped for data-parallel work when `workers` > 1).

    `on_epoch` gets each epoch's report and, when the epoch is the best so far, its weights; without validation only the
    last epoch's are the best. `resumed` is where an earlier attempt got to: it goes on from there to the same bits.
    `states` gets the state from time to time. `until` ends after that epoch of a longer training, at the learning rate
    that the longer one has there. Raises TrainingDiverged.
    """
    run = _Run(model, config, objective, rows, seed, device, rank, workers, states)
    progress, best = Progress(), dict[str, torch.Tensor]()
    if resumed is not None:
        run.live.restore(resumed)
        progress, best = resumed.progress, resumed.best
    stop = min(config.epochs, until or config.epochs)
    while True:
        started = time.perf_counter() - progress.seconds
        run.steps(progress, started)
        train_loss = run.mean_loss(progress.epoch)
        epoch = progress.epoch
        metric = None if validation is None else run.validate(validation, epoch)
        if metric is None:
            improved = epoch == stop
        else:
            improved = not best or objective.metric.better(metric, progress.best_metric, _min_delta(config))
        if improved:
            best = {name: tensor.detach().cpu().clone() for name, tensor in run.live.plain.state_dict().items()}
            progress.best_metric, progress.best_epoch = metric, epoch
        waited = epoch - progress.best_epoch
        impatient = (
            metric is not None and config.early_stopping is not None and waited >= config.early_stopping.patience
        )
        report = EpochReport(
            epoch,
            train_loss,
            run.learning_rate(epoch, len(run.bounds)),
            time.perf_counter() - started,
            metric,
            progress.best_metric,
            progress.best_epoch,
            last=impatient or epoch == stop,
        )
        on_epoch(report, best if improved else None)
        if report.last:
            return Trained(best, progress.best_epoch, progress.best_metric, epoch)
        progress.epoch, progress.step, progress.seconds = epoch + 1, 0, 0.0
        progress.curves.append(report.to_dict())
        run.live.loss_sum.zero_()
        run.keep(progress, time.perf_counter())


class _Run:
    """What stays the same from epoch to epoch, and the objects that every step changes."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        objective: Objective,
        rows: Rows,
        seed: int,
        device: torch.device,
        rank: int,
        workers: int,
        states: StateWriter | None,
    ) -> None:
        self.config, self.objective, self.rows, self.states = config, objective, rows, states
        self.seed, self.device, self.rank, self.workers = seed, device, rank, workers
        self.most = max(workers, config.most_workers)
        self.bounds = batch_bounds(rows.rows, config.batch_size, self.most)
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.live = Live(model, build_optimizer(model, config), scaler, torch.zeros((), device=device))
        self.seeds = (0, 0)
        """An epoch, and the number that its steps are seeded from."""

    def steps(self, progress: Progress, started: float) -> None:
        """The optimiser steps of the epoch that are still to be done."""
        config, model, live, epoch, first = self.config, self.live.model, self.live, progress.epoch, progress.step
        model.train()
        batches = self.rows.epoch(self.seed, epoch, config.batch_size, self.rank, self.workers, first, self.most)
        for step, batch in enumerate(batches, first):
            self.seed_step(epoch, step)
            for group in live.optimizer.param_groups:
                group["lr"] = self.learning_rate(epoch, step)
            inputs = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            targets = inputs.pop("target")
            low, high = self.bounds[step]
            # DDP averages over workers; this weight makes that average the mean over the rows of the whole batch.
            weight = len(targets) * self.workers / (high - low)
            with autocast(config, self.device):
                loss = self.objective.loss(model(inputs), targets) * weight
            live.optimizer.zero_grad(set_to_none=True)
            live.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                live.scaler.unscale_(live.optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            live.scaler.step(live.optimizer)
            live.scaler.update()
            live.loss_sum += loss.detach()
            progress.step = step + 1
            self.keep(progress, started)

    def keep(self, progress: Progress, started: float) -> None:
        """Store the state if it is time to; `started` is when the epoch began."""
        if self.states is not None and self.states.due():
            progress.seconds = time.perf_counter() - started
            # After an epoch's last step comes its validation: a point of its own, before the next epoch's start.
            number = (progress.epoch - 1) * (len(self.bounds) + 1) + progress.step
            self.states.save(number, self.live.tensors(), progress, self.live.scaler.state_dict())

    def seed_step(self, epoch: int, step: int) -> None:
        """Make torch's random numbers (dropout) a function of where the training is.

        A training that goes on in another process then draws what it would have drawn, and no generator's state has to
        be stored, of however many workers.
        """
        if self.seeds[0] != epoch:
            drawn = generator(self.rows.snapshot, self.seed, "steps", epoch, self.rank).integers(2**62)
            self.seeds = epoch, int(drawn)
        # Not torch.manual_seed: it takes a stack trace for every device that is not there, a millisecond each time.
        torch.default_generator.manual_seed(self.seeds[1] + step)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.seeds[1] + step)

    def learning_rate(self, epoch: int, step: int) -> float:
        done = (epoch - 1) * len(self.bounds) + step
        return self.config.learning_rate * learning_rate_factor(
            self.config, done, self.config.epochs * len(self.bounds)
        )

    def mean_loss(self, epoch: int) -> float:
        """Of the epoch's steps on this worker. Raises TrainingDiverged."""
        mean = self.live.loss_sum.item() / len(self.bounds)
        if not math.isfinite(mean):
            raise TrainingDiverged(
                f"the training loss became {mean} in epoch {epoch} (learning rate {self.config.learning_rate:g}); "
                "lower train.learning_rate or set train.clip_norm"
            )
        return mean

    def validate(self, rows: Rows, epoch: int) -> float:
        """Rank 0's metric on every rank: their buffers (running means) differ, their decisions must not."""
        self.seed_step(epoch, len(self.bounds))
        metric = validate(self.live.plain, rows, self.objective, self.config, self.device)
        if self.workers == 1:
            return metric
        agreed = torch.tensor(metric, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(agreed, 0)
        return agreed.item()


def validate(model: nn.Module, rows: Rows, objective: Objective, config: TrainConfig, device: torch.device) -> float:
    """The validation metric of the plain `model` over all rows, in the target's own units."""
    model.eval()
    outputs, targets = [], []
    with torch.inference_mode(), autocast(config, device):
        for batch in rows.ordered(EVALUATION_BATCH):
            inputs: Batch = {name: tensor.to(device) for name, tensor in batch.items()}
            targets.append(inputs.pop("target").cpu().numpy())
            outputs.append(model(inputs).float().cpu().numpy())
    unit = objective.target
    true = np.concatenate(targets)
    if objective.task == "regression":
        true = true.astype(np.float64) * unit.scale + unit.mean
    return objective.metric(true, scores(np.concatenate(outputs), objective.task, unit.mean, unit.scale))


def _min_delta(config: TrainConfig) -> float:
    return config.early_stopping.min_delta if config.early_stopping is not None else 0.0
