"""Data-parallel training of one configuration through `ray.train`, with the same loop as a single worker."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.config.training import ElasticWorkers
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.store import Store
from raymlops.training.trial import Handles, TrialContext, fit, open_rows

WORKER_START_ATTEMPTS = 3
"""Ray retries a worker group that did not come up for ever unless told otherwise. An elastic one may fail once more per
lost node, when Ray still counts on the node."""
PLACEMENT = "placement-group"
"""File beside the checkpoint that names the placement group while its trial runs."""


def run_data_parallel(
    config: Config,
    context: TrialContext,
    handles: Handles,
    path: str,
    *,
    name: str,
    callbacks: Sequence[Any] = (),
    refit: bool = False,
    until: int | None = None,
) -> None:
    """Train on `train.workers` processes; rank 0 writes the best epoch's checkpoint to `path`.

    When a worker is lost all are started again, up to `train.max_failures` times, and go on from the newest state at
    `path`; the same happens when an elastic group grows or shrinks. An exception of ours is final at once, and so is
    the end of workers that `release_workers` freed.
    Raises what the workers raised, or RaymlopsError when they could not be started.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchTrainer

    train = config.train
    elastic: dict[str, Any] = {}
    if isinstance(train.workers, ElasticWorkers):
        elastic["elastic_resize_monitor_interval_s"] = train.workers.check_every.total_seconds()
    resources = {"CPU": train.cpus_per_worker}
    if train.gpus_per_worker:
        resources["GPU"] = train.gpus_per_worker

    def worker() -> None:
        import ray.train
        import torch
        from ray.train.torch import get_device, prepare_model

        torch.set_num_threads(max(1, int(train.cpus_per_worker)))
        place = ray.train.get_context()
        if place.get_world_rank() == 0:
            _remember_placement(context.store, path)
        rows, validation = open_rows(context, handles, refit)
        fit(
            config,
            context,
            rows,
            validation,
            path,
            ray.train.report,
            wrap=lambda module: prepare_model(module, move_to_device=False),
            device=get_device(),
            rank=place.get_world_rank(),
            workers=place.get_world_size(),
            until=until,
        )

    class EndForGood(UserCallback):  # type: ignore[misc]
        """No other group of workers is started for a diverged loss or a wrong configuration, which would come again;
        nor for a trial whose workers were released, as their CPUs are somebody else's by then."""

        reported = False

        def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
            self.reported = True

        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, RaymlopsError):
                    raise error
            if self.reported and not context.store.exists(f"{path}/{PLACEMENT}"):
                raise RaymlopsError("the trial was ended, and its workers released")

    trainer = TorchTrainer(
        worker,
        scaling_config=ScalingConfig(
            num_workers=train.workers if not elastic else (train.least_workers, train.most_workers),
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=resources,
            **elastic,
        ),
        # Equal storage path and name would mean "resume", so every attempt has a name of its own.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:6]}",
            storage_path=context.store.location(f"{context.path}/ray-train"),
            callbacks=[EndForGood(), *callbacks],
            failure_config=FailureConfig(
                max_failures=train.max_failures,
                controller_failure_limit=WORKER_START_ATTEMPTS + (train.max_failures if elastic else 0),
            ),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        ours = getattr(error, "controller_failure", None)
        if isinstance(ours, RaymlopsError):
            raise ours from error
        failures = getattr(error, "worker_failures", None)
        if failures:
            raise next(iter(failures.values())) from error
        raise RaymlopsError(f"the data-parallel trial did not run: {error}") from error


def release_workers(store: Store, path: str) -> None:
    """Free what the workers of an ended trial hold, if its driver was stopped before it could.

    Ray keeps a placement group until the *job* ends when the actor that made it was killed, which is how Tune ends a
    pruned trial. Ray Train's own cleaner finds such groups through the dashboard, which a local Ray runs without; what
    it left would starve the next trial of its CPUs for ever.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if store.exists(f"{path}/{PLACEMENT}"):
        identity = ray.PlacementGroupID.from_hex(store.read(f"{path}/{PLACEMENT}").decode())
        store.delete_file(f"{path}/{PLACEMENT}")  # first: whoever drives them may yet live, and ask why they ended
        remove_placement_group(PlacementGroup(identity))


def _remember_placement(store: Store, path: str) -> None:
    from ray.util.placement_group import get_current_placement_group

    group = get_current_placement_group()
    if group is not None:
        store.write(f"{path}/{PLACEMENT}", group.id.hex().encode(), sync=False)
