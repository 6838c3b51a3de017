"""Joining a Ray cluster, or starting one for this process; and what a cluster must allow before work begins."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from raymlops.config.tree import Config, RayConfig
from raymlops.errors import ConfigError, RaymlopsError
from raymlops.ray_loss import guarded, servers
from raymlops.store import Store

# Read by Ray when it is imported or started: usage reports off (nothing leaves the machine unasked), quiet progress.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    address: str
    started_here: bool
    nodes: int
    cpus: float
    gpus: float
    lost: Callable[[], bool] = lambda: False
    """Whether the Ray that was started here has ended meanwhile."""

    def __str__(self) -> str:
        kind = "local Ray" if self.started_here else f"cluster at {self.address}"
        return f"{kind}: {self.nodes} node(s), {self.cpus:g} CPU, {self.gpus:g} GPU"


def prepare_environment() -> None:
    """Set defaults that Ray reads at import; what the user has set stays."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def job_address() -> str:
    """Address of the cluster that this process was submitted to. Raises RaymlopsError outside of a Ray job."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return address
    raise RaymlopsError(
        "RAY_ADDRESS is not set, so this is not a Ray job; submit it with "
        "`ray job submit --working-dir . -- python jobs/train.py ...`, or run `raymlops run` on this machine"
    )


@contextmanager
def connected(config: RayConfig) -> Iterator[Cluster]:
    """A connection to Ray for the duration of a job: an existing one, `ray.address`, `RAY_ADDRESS`, or a local start.

    A local Ray listens on loopback and is stopped at the end; a joined cluster is only left. Raises RaymlopsError when
    the cluster cannot be reached, RayLost as soon as a local Ray ends before the work does.
    """
    prepare_environment()
    import ray

    address = config.address or os.environ.get("RAY_ADDRESS")
    owned = not ray.is_initialized()
    if owned:
        try:
            if address and address != "local":
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True)
            else:
                ray.init(
                    address="local",
                    num_cpus=config.num_cpus,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=True,
                )
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            where = f"the cluster at {address}" if address else "a local Ray"
            raise RaymlopsError(f"ray: cannot start or join {where}: {str(error).splitlines()[0]}") from error
    started_here = owned and not (address and address != "local")
    with ExitStack() as stack:
        guard = stack.enter_context(guarded(servers() if started_here else []))
        if owned:
            stack.enter_context(_termination_interrupts())
            stack.callback(ray.shutdown)
        stack.callback(guard.release)
        alive = [node for node in ray.nodes() if node["Alive"]]
        resources = ray.cluster_resources()
        yield Cluster(
            address=ray.get_runtime_context().gcs_address,
            started_here=started_here,
            nodes=len(alive),
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            lost=guard.lost,
        )


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work like Ctrl-C, so that its run is closed and a local Ray stopped.

    With the handler that `ray.init` leaves behind, the process would abort three seconds after a SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # A hang-up that is ignored (nohup) stays ignored.
    chosen = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_shared_storage(config: Config, store: Store, nodes: int) -> None:
    """Raises ConfigError when several nodes would each see another disk under the same name."""
    if nodes > 1 and store.is_local and not config.storage_shared:
        raise ConfigError(
            f"storage: {config.storage!r} is a local path, but the cluster has {nodes} nodes that would each see their "
            "own disk; use a URI that all nodes reach, or set storage_shared: true when it is a shared mount"
        )
    source = config.data.source
    paths = getattr(source, "path", None)
    for path in [paths] if isinstance(paths, str) else paths or []:
        if nodes > 1 and "://" not in path and not config.storage_shared:
            raise ConfigError(
                f"data.source.path: {path!r} is a local path, but the cluster has {nodes} nodes; use a URI that all "
                "nodes reach, or set storage_shared: true when it is a shared mount"
            )
