"""Starting an endpoint: Ray where none is named, Serve, the rollout controller, the application; and ending it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from raymlops.cluster import prepare_environment
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.serving.args import EndpointArgs
from raymlops.serving.document import ModelRef
from raymlops.serving.environment import choose, prepare
from raymlops.serving.exposure import Listener, listeners
from raymlops.serving.link import sweep
from raymlops.serving.local import LocalEndpoint, clear, find, runtime_directory

DELETE_SECONDS = 30.0
SPARE_CPUS = 1.0
"""Logical CPUs for a second candidate or the copies of an update."""


@dataclass(frozen=True)
class Running:
    """An endpoint that answers."""

    args: EndpointArgs
    url: str
    version: str
    proxy: str
    """`haproxy`, `default`, or `cluster`: whatever the cluster was started with."""
    local: LocalEndpoint | None
    """None on a cluster that was joined."""
    listeners: list[Listener]


@contextmanager
def serving(config: Config, say: Callable[[str], None] = lambda _: None) -> Iterator[Running]:
    """The endpoint, from when it answers to the end of the block; then it is taken down.

    On a cluster (`ray.address` or RAY_ADDRESS) it is an application among others. Otherwise a Ray is started for it
    that only answers who has its token. Raises RaymlopsError when it cannot start.
    """
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    joins = address is not None and address != "local"
    args = EndpointArgs.of(config)
    other = find(config.name)
    if other is not None and not joins:
        raise RaymlopsError(f"endpoint {config.name!r} runs already at {other.url} (process {other.pid})")
    with contextlib.ExitStack() as stack:
        if not joins:
            clear(config.name)
            sweep()
            _require_free(config.serving.host, config.serving.port)
        if joins:
            prepare_environment()
            proxy, directory = "cluster", None
        else:
            proxy = choose(config.serving)
            directory = tempfile.mkdtemp(prefix="e", dir=runtime_directory())
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            prepare(proxy, Path(directory))
        say("finding and staging the champion")
        champion = args.stage_champion()
        say(f"joining Ray at {address}" if joins else "starting Ray")
        gcs = _connect(config, address if joins else None)
        stack.callback(_disconnect)
        say("starting Serve, the rollout controller and the endpoint")
        stack.callback(_delete, args.name)
        url = f"http://{config.serving.host}:{config.serving.port}"
        with _reported():
            _start_serve(args, champion, config)
        local = None
        if directory is not None:  # before it answers: whoever got an answer may ask at once where the controller is
            local = _local(config.name, url, gcs, directory)
            local.save()
            stack.callback(local.remove)
        with _reported():
            _deploy(args, champion)
        found = listeners([os.getpid()]) if not joins else []
        yield Running(args, url, champion.version, proxy, local, found)


def _require_free(host: str, port: int) -> None:
    """Raises RaymlopsError when somebody listens there already: Serve would only say so deep in its logs."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise RaymlopsError(f"serving.port: cannot listen on {host}:{port}: {error.strerror}") from error


def _connect(config: Config, address: str | None) -> str:
    import ray

    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(
                address="local",
                num_cpus=config.ray.num_cpus or max(os.cpu_count() or 1, _needed_cpus(config)),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        where = f"the cluster at {address}" if address else "a local Ray"
        raise RaymlopsError(f"ray: cannot start or join {where}: {str(error).splitlines()[0]}") from error
    return str(ray.get_runtime_context().gcs_address)


def _needed_cpus(config: Config) -> int:
    """Ray places by what is reserved: a machine with fewer CPUs shares them."""
    serving = config.serving
    replicas = serving.autoscaling.max_replicas if serving.autoscaling is not None else serving.replicas
    needed = 2 * replicas * serving.cpus + 2 * serving.candidate.replicas * serving.candidate.cpus + SPARE_CPUS
    return int(needed) + 1


@contextmanager
def _reported() -> Iterator[None]:
    """Whatever keeps Serve from starting, one of its own actors that died among it, as RaymlopsError."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayError, RayServeException, RuntimeError, ValueError, OSError) as error:
        raise RaymlopsError(f"serve: the endpoint does not start: {reason(error)}") from error


def reason(error: Exception) -> str:
    """One line of what Serve said: of the error that is told of at the end of its traceback, if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return [type(error).__name__, *lines[-1:], *causes][-1]


def _start_serve(args: EndpointArgs, champion: ModelRef, config: Config) -> None:
    from ray import serve

    from raymlops.rollout.controller import ensure_controller

    serve.start(http_options={"host": config.serving.host, "port": config.serving.port}, logging_config=None)
    ensure_controller(args.controller_config(champion))


def _deploy(args: EndpointArgs, champion: ModelRef) -> None:
    from ray import serve

    from raymlops.serving.app import application

    serve.run(application(args, champion), name=args.name, route_prefix="/")


def _local(name: str, url: str, gcs: str, directory: str) -> LocalEndpoint:
    process = psutil.Process()
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") if os.environ.get("RAY_AUTH_MODE") == "token" else None
    return LocalEndpoint(name, url, process.pid, process.create_time(), gcs, directory, token)


def _delete(name: str) -> None:
    """The endpoint first, whose replicas bring away what they still hold and would start the controller anew."""
    import ray
    from ray import serve

    from raymlops.serving.document import NAMESPACE, controller_name

    with contextlib.suppress(Exception):  # Serve may have died: nothing is left to delete then
        _delete_apps([name])
    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ray.kill(ray.get_actor(controller_name(name), namespace=NAMESPACE))
    with contextlib.suppress(Exception):
        _delete_apps([app for app in serve.status().applications if app.startswith(f"{name}-candidate-")])


def _delete_apps(names: list[str]) -> None:
    from ray import serve

    for name in names:
        serve.delete(name, _blocking=False)
    until = time.monotonic() + DELETE_SECONDS
    while time.monotonic() < until and set(names) & set(serve.status().applications):
        time.sleep(0.1)


def _disconnect() -> None:
    import ray

    ray.shutdown()
