"""The main job, from raw rows to a registered champion or candidate: what has to be done, by whom, in which run."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import check_shared_storage, connected
from raymlops.config import Config
from raymlops.errors import ConfigError, DataError, RaymlopsError, Refused
from raymlops.imports import resolve, ship_by_value, user_functions
from raymlops.lock import Claim, Held, hold
from raymlops.retraining.desk import Desk, Origin
from raymlops.retraining.inputs import ON_RAY, StepName, inputs_of
from raymlops.retraining.plan import JobRecord, Planned, goes_on_with
from raymlops.retraining.result import RunResult
from raymlops.retraining.steps import Steps
from raymlops.retraining.watch import Watch
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage

__all__ = ["Origin", "plan_job", "run_job"]

log = logging.getLogger(__name__)

SLOW_IMPORTS = ("mlflow", "mlflow.pyfunc", "torch", "raymlops.registry.tracking", "raymlops.registry.package")
JOB_TAG = "raymlops.job"
"""On runs: the key of the job that they are of."""


def run_job(
    config: Config,
    base: Path,
    watch: Watch,
    now: datetime | None = None,
    origin: Origin | None = None,
    *,
    forced: StepName | None = None,
    resume: str | None = None,
) -> RunResult:
    """Do what has to be done of the job that `config` describes; `base` is the configuration file's directory.

    Steps whose inputs have not changed since some run of the model did them are not done again. A run of this job that
    was killed or interrupted is gone on with. `forced` is a step that is done again with all that follow it, changed or
    not; `resume` the id of a run that has to be the one that goes on.

    Raises RaymlopsError (ConfigError, DataError, ContractViolated, Held, ...) when a step cannot be done; a model that
    the gate refuses is a result, not an error.
    """
    steps = Steps(watch)
    origin = origin or Origin()
    _check_start(config, origin.start)
    store = Store.at(config.storage)
    with steps.step("plan", "what has changed since the last run"):
        desk = Desk(config, base, store, origin, now)
        plan = desk.plan(forced)
        for planned in plan:
            if planned.runs and planned.told:
                watch.note(f"{planned.step}: {planned.why}")
    if _nothing_to_do(desk, plan):
        return _earlier(desk, plan, steps)
    with hold(store, desk.records.lock_root(desk.key), config.name) as claim:
        desk.look()  # somebody may have worked on it until now
        forced = forced or (desk.earlier.forced if desk.own and desk.earlier else None)
        plan = desk.plan(forced)
        if _nothing_to_do(desk, plan):
            return _earlier(desk, plan, steps)
        desk.memory.save()
        return _work(desk, plan, forced, resume, steps, claim)


def plan_job(
    config: Config, base: Path, forced: StepName | None = None, now: datetime | None = None
) -> tuple[list[Planned], str | None]:
    """Which steps `run_job` would do and why, and the run that it would go on with. Starts nothing, writes nothing."""
    desk = Desk(config, base, Store.at(config.storage), Origin(), now)
    forced = forced or (desk.earlier.forced if desk.own and desk.earlier else None)
    plan = desk.plan(forced)
    return plan, None if _nothing_to_do(desk, plan) else goes_on_with(desk.earlier, plan, forced)


def _nothing_to_do(desk: Desk, plan: list[Planned]) -> bool:
    return desk.own is None and not any(planned.runs for planned in plan)


def _earlier(desk: Desk, plan: list[Planned], steps: Steps) -> RunResult:
    """The result of the run that did it all."""
    report = plan[-1].record
    assert report is not None
    return RunResult(**report.output["result"], seconds=steps.total(), reused=[p.step for p in plan], unchanged=True)


def _work(
    desk: Desk, plan: list[Planned], forced: StepName | None, resume: str | None, steps: Steps, claim: Claim
) -> RunResult:
    from raymlops.registry.adoption import close_run, orphan, run_exists

    functions = {name: resolve(path, name) for name, path in user_functions(desk.config).items()}
    earlier, own = desk.earlier, desk.own
    with _engine(desk, steps, any(planned.runs and planned.step in ON_RAY for planned in plan)) as lost:
        built, failure = None, None
        made: dict[StepName, dict[str, Any]] = {}
        if earlier is not None and plan[0].runs:
            # Whether the earlier run can be gone on with depends on what is read now, so no run is opened before.
            built, failure = _read_first(desk, functions, steps, f"{desk.key[:16]}-{claim.number}")
            if built is not None:
                made["snapshot"] = desk.read(built)
                plan = desk.plan(forced, made)
                if _nothing_to_do(desk, plan) and plan[0].record is not None:
                    inputs = inputs_of("snapshot", desk.facts, {})  # the next run need not read again
                    desk.records.done(
                        "snapshot", inputs, made["snapshot"], plan[0].record.run, steps.seconds["snapshot"]
                    )
                    return _earlier(desk, plan, steps)
        adopt = None if failure is not None else goes_on_with(earlier, plan, forced)
        adopt = adopt if adopt and run_exists(desk.tracking, adopt) else None
        if resume is not None and adopt != resume:
            raise RaymlopsError(f"run {resume}: cannot go on, {_why_not(plan)}; without --resume a new run begins")
        if own is not None and own != adopt:
            close_run(desk.tracking, own, "killed or interrupted; what it read has changed since, so another run began")
        if adopt is None and forced is None and failure is None:
            adopt = orphan(desk.tracking, desk.config.name, JOB_TAG, desk.key)
        with _tracked(desk, forced, adopt, steps.watch, lost) as (tracker, record):
            if failure is not None:
                raise failure
            from raymlops.retraining.job import Job

            def fence() -> None:
                desk.origin.fence()
                claim.check()

            return Job(desk, record, own if own == adopt else None, functions, tracker, steps, fence).run(built)


def _read_first(
    desk: Desk, functions: dict[str, Any], steps: Steps, directory: str
) -> tuple[BuiltSnapshot | None, Exception | None]:
    from raymlops.retraining.job import read_source

    try:
        return read_source(desk, functions, steps, directory), None
    except Exception as error:  # told by the run that is going to be opened for it
        return None, error


def _why_not(plan: Sequence[Planned]) -> str:
    return "; ".join(f"{planned.step}: {planned.why}" for planned in plan if planned.runs) or "it is not unfinished"


@contextmanager
def _tracked(
    desk: Desk, forced: StepName | None, adopt: str | None, watch: Watch, lost: Callable[[], bool]
) -> Iterator[tuple[Any, JobRecord]]:
    """An open run, new or adopted, and the job's record of how it ends. `lost` tells whether Ray is."""
    from raymlops.registry.tracking import Tracker
    from raymlops.training.search import SearchFailed

    known = desk.earlier if desk.earlier is not None and desk.earlier.run_id == adopt else None
    began = desk.now if known is None else datetime.fromtimestamp(known.at, UTC)
    tracker = Tracker(desk.config, desk.store, desk.base, began, {**desk.origin.tags, JOB_TAG: desk.key}, adopt)
    records = desk.records

    def settle(status: str, error: str | None = None) -> None:
        current = records.job(desk.key) or record
        records.write_job(replace(current, status=status, error=error))

    with tracker:
        record = JobRecord(
            key=desk.key,
            run_id=tracker.run_id,
            status="running",
            at=began.timestamp(),
            config=desk.facts.config,
            base=str(desk.base),
            tags=dict(desk.origin.tags),
            forced=forced,
            started={} if known is None else known.started,
        )
        records.write_job(record)
        if adopt is not None:
            watch.note(f"goes on with run {adopt}")
        try:
            yield tracker, record
        except Held:
            raise  # the record is another process's by now
        except (Refused, ConfigError, DataError, SearchFailed) as error:
            # The same would come of it again, unless it came of a Ray that is not there any more.
            settle("stopped" if lost() else "failed", str(error))
            raise
        except BaseException as error:
            settle("stopped", f"{type(error).__name__}: {error}")
            raise
    settle("done")


@contextmanager
def _engine(desk: Desk, steps: Steps, needed: bool) -> Iterator[Callable[[], bool]]:
    """Ray and the modules that take seconds to import; the latter alone when no step needs Ray. Yields a function that
    tells whether a local Ray has ended meanwhile."""
    with ExitStack() as stack:
        cluster = None
        with steps.step("start", "Ray and tracking" if needed else "tracking"):
            # Importing MLflow and torch takes seconds, and so does starting Ray: do both at once.
            imports = threading.Thread(target=_import_slow_modules, name="imports", daemon=True)
            imports.start()
            if needed:
                cluster = stack.enter_context(connected(desk.config.ray))
                check_shared_storage(desk.config, desk.store, cluster.nodes)
                ship_by_value(desk.base)
            imports.join()
            if needed:
                steps.watch.note(str(cluster))
                for reason in _check_fits(desk.config):
                    steps.watch.note(f"not exact: {reason}")
        yield (lambda: False) if cluster is None else cluster.lost


def _check_fits(config: Config) -> list[str]:
    """What keeps this run from being repeated to the last bit.

    Raises ConfigError for a search space that leads nowhere, ResourceError for a trial that the cluster cannot hold.
    """
    from raymlops.training.exactness import exactness
    from raymlops.training.resources import concurrent_trials
    from raymlops.training.search import cluster_nodes
    from raymlops.training.space import check_space

    check_space(config)
    nodes = cluster_nodes()
    concurrent = concurrent_trials(nodes, config.train, config.search)
    cuda = config.train.device != "cpu" and any(node.get("GPU", 0) for node in nodes)
    return exactness(config, cuda=cuda, concurrent=concurrent)


def _check_start(config: Config, start: ModelPackage | None) -> None:
    """Raises ConfigError when training cannot go on from these weights."""
    if start is None:
        return
    changed = [name for name in ("task", "model", "features") if getattr(config, name) != getattr(start.config, name)]
    if changed:
        raise ConfigError(
            f"retraining.train: a warm start needs the champion's {' and '.join(changed)}, but the configuration has "
            "others by now; use search"
        )


def _import_slow_modules() -> None:
    from raymlops.registry.backend import prepare_environment

    prepare_environment()  # before MLflow reads it
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
