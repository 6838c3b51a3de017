"""One trial: what runs inside a Tune actor (one worker) or drives a `TorchTrainer` (several)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import torch

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.features.state import ArraySpec
from raymlops.store import Store
from raymlops.training.batches import InMemory, Rows, Streamed, generator, join
from raymlops.training.checkpoint import load_checkpoint, save_checkpoint
from raymlops.training.keeper import StateWriter
from raymlops.training.loop import EpochReport, Objective, Target, Trained, pick_device, train
from raymlops.training.models import ModelFactory, build_model
from raymlops.training.objective import LossFunction, MetricFunction, ValidationMetric, loss_function
from raymlops.training.records import TrialRecord, finished_record
from raymlops.training.space import decode, with_values
from raymlops.training.state import Resumed, identity_of, load_state, newest_state

if TYPE_CHECKING:
    from raymlops.data.snapshot import Snapshot

log = logging.getLogger(__name__)

FAILURE = "failure"
"""Key of a result that says why the trial ended without one."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialContext:
    """Everything a trial needs besides its drawn parameters; sent to every worker once."""

    config: Config
    spec: ArraySpec
    target: Target
    snapshot: Snapshot
    store: Store
    path: str
    """Where trials write, below the store: one directory per trial."""
    start: str | None = None
    """Checkpoint whose weights training begins with, below the store."""
    factory: ModelFactory | None = None
    loss: LossFunction | None = None
    metric: MetricFunction | None = None

    def objective(self, config: Config) -> Objective:
        metric = ValidationMetric.resolve(config.train.metric, config.task, self.metric)
        return Objective(config.task, loss_function(config.train.loss, config.task, self.loss), metric, self.target)


@dataclass(frozen=True)
class Handles:
    """Object-store references to the encoded parts; empty when the data is streamed from shards instead."""

    parts: Mapping[str, Any]

    def open(self, snapshot: Snapshot, part: str) -> InMemory | Streamed:
        shards = snapshot.shards(part)
        lengths = [shard.rows for shard in shards]
        if part in self.parts:
            return InMemory(snapshot.hash, ray.get(self.parts[part]), lengths)
        return Streamed(snapshot.hash, lambda i: snapshot.load_shard(shards[i]), lengths)


def run_trial(drawn: Mapping[str, Any], context: TrialContext, handles: Handles) -> None:
    """The Tune trainable. A failure is reported as a result, so that the actor lives on for the next trial.

    A trial that ended before, in an earlier process of the same search, is not trained: its epochs are reported again,
    so that searcher and scheduler learn what they knew. One that was killed goes on from its last stored state.
    """
    from ray import tune

    name = tune.get_context().get_trial_name()
    path = f"{context.path}/{name}"
    try:
        values = decode(context.config.search.space, drawn)
        ended = finished_record(context.store, path, values)
        if ended is not None:
            _replay(ended, tune.report)
            return
        config = with_values(context.config, values)
        if config.train.most_workers == 1:
            run_single(config, context, handles, path, tune.report)
        else:
            from ray.tune.integration.ray_train import TuneReportCallback

            from raymlops.training.ddp import run_data_parallel

            run_data_parallel(config, context, handles, path, name=name, callbacks=[TuneReportCallback()])
    except Exception as error:
        log.warning("%s failed", name, exc_info=error)
        tune.report({FAILURE: describe_failure(error)})


def _replay(ended: TrialRecord, report: Report) -> None:
    for point in ended.curves:
        report(dict(point))
    if ended.status == "failed":
        report({FAILURE: ended.reason})


def run_single(
    config: Config,
    context: TrialContext,
    handles: Handles,
    path: str,
    report: Report,
    *,
    refit: bool = False,
    until: int | None = None,
) -> Trained:
    """Train in this process on one device; checkpoints of the best epoch go to `path` before they are reported."""
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    rows, validation = open_rows(context, handles, refit)
    return fit(config, context, rows, validation, path, report, until=until)


def open_rows(context: TrialContext, handles: Handles, refit: bool) -> tuple[Rows, Rows | None]:
    """Training and validation rows; for a refit both as training rows."""
    rows = handles.open(context.snapshot, "train")
    validation = handles.open(context.snapshot, "validation")
    return (join(rows, validation), None) if refit else (rows, validation)


def fit(
    config: Config,
    context: TrialContext,
    rows: Rows,
    validation: Rows | None,
    path: str,
    report: Report,
    *,
    wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda module: module,
    device: torch.device | None = None,
    rank: int = 0,
    workers: int = 1,
    until: int | None = None,
) -> Trained:
    """Build, seed, train, checkpoint, or go on from the newest state at `path`. Rank 0 writes; every rank reports.

    Going on, the epochs that had ended are reported first. States stay at `path` for the caller to remove when it has
    recorded that the training ended.
    """
    device = device if device is not None else pick_device(config.train.device)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    # Seeds the initialisation; drawn from the data's identity, so that equal inputs mean equal weights.
    torch.manual_seed(int(generator(context.snapshot.hash, config.seed, "model").integers(2**63)))
    built = build_model(config.model, context.spec, context.factory)
    start = None
    if context.start is not None:
        weights, facts = load_checkpoint(context.store, context.start)
        built.load_state_dict(weights)
        start = facts["weights_sha256"]
    model = wrap(built.to(device))
    identity = identity_of(context.snapshot.hash, config, start, validation is None, until)
    resumed = _resume(context.store, path, identity, rank, workers, device)
    if resumed is not None:
        at = resumed.progress
        log.info("%s goes on in epoch %d after %d steps of it", path, at.epoch, at.step)
        for point in at.curves:
            report(dict(point))

    def on_epoch(epoch: EpochReport, best: dict[str, torch.Tensor] | None) -> None:
        if best is not None and rank == 0:
            facts = {
                "identity": identity,
                "epoch": epoch.epoch,
                "metric": epoch.metric,
                "config": config.model_dump(mode="json", by_alias=True),
            }
            save_checkpoint(context.store, path, best, facts)
        report(epoch.to_dict())

    states = StateWriter(context.store, path, identity, config.train.checkpoint) if rank == 0 else None
    with states or nullcontext():
        return train(
            model,
            config.train,
            context.objective(config),
            rows,
            validation,
            seed=config.seed,
            device=device,
            on_epoch=on_epoch,
            rank=rank,
            workers=workers,
            resumed=resumed,
            states=states,
            until=until,
        )


def _resume(store: Store, path: str, identity: str, rank: int, workers: int, device: torch.device) -> Resumed | None:
    """What to go on from, the same on every rank: rank 0 picks it."""
    resumed = newest_state(store, path, identity) if rank == 0 else None
    if workers > 1:
        number = torch.tensor(-1 if resumed is None else resumed.number, device=device)
        torch.distributed.broadcast(number, 0)
        if rank > 0 and number.item() >= 0:
            resumed = load_state(store, path, int(number.item()), identity)
    return resumed


def describe_failure(error: BaseException) -> str:
    """One line for a person: our own errors speak for themselves, others bring their type."""
    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    if isinstance(error, RaymlopsError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:500]
