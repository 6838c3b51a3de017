"""The servers that raymlops is compared with: how each is installed, started and asked, by its own documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.serving_lib import protocols
from benchmarks.serving_lib.environments import Environment
from benchmarks.serving_lib.models import NAME, Models
from benchmarks.serving_lib.protocols import Protocol

APPS = "benchmarks.serving_lib.apps"


@dataclass(frozen=True)
class Start:
    """A command in the foreground, with what it needs in the environment beside `common`."""

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    name: str
    """As on the command line; environments are named by `distribution`."""
    title: str
    distribution: str
    requirements: Sequence[str]
    protocol: Protocol
    start: Callable[[Environment, Models, int, Path], Start]
    """From environment, models, port and a scratch directory of its own."""
    how: str
    """How it is run, for the report."""


def common(models: Models) -> dict[str, str]:
    """What the champion needs in every peer: this checkout's code, and where the package is."""
    return {"PYTHONPATH": str(ROOT), "PACKAGE": str(models.package), "OMP_NUM_THREADS": "1"}


def _uvicorn(workers: int) -> Callable[[Environment, Models, int, Path], Start]:
    def start(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
        options = ("--host", "127.0.0.1", "--port", str(port), "--workers", str(workers))
        quiet = ("--no-access-log", "--log-level", "warning")
        return Start([environment.program("uvicorn"), f"{APPS}.fastapi_app:app", *options, *quiet], {})

    return start


def _ray(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
    settings = {"PORT": str(port), "RAY_USAGE_STATS_ENABLED": "0"}
    return Start([str(environment.python), "-m", f"{APPS}.ray_app"], settings)


def _mlserver(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    (scratch / "settings.json").write_text(json.dumps(settings))
    model = {"name": NAME, "implementation": f"{APPS}.mlserver_app.Flights"}
    (scratch / "model-settings.json").write_text(json.dumps(model))
    return Start([environment.program("mlserver"), "start", str(scratch)], {})


def _mlflow(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
    options = ("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "2")
    settings = {"MLFLOW_TRACKING_URI": models.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": ""}
    path = f"{environment.python.parent}:/usr/local/bin:/usr/bin:/bin"  # mlflow starts uvicorn by name
    command = [environment.program("mlflow"), "models", "serve", "-m", f"models:/{NAME}@champion", *options]
    return Start(command, {**settings, "PATH": path})


def _bentoml(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
    settings = {"BENTOML_HOME": str(scratch), "BENTOML_DO_NOT_TRACK": "True"}
    where = ("--host", "127.0.0.1", "--port", str(port))
    return Start([environment.program("bentoml"), "serve", f"{APPS}.bentoml_app:Flights", *where], settings)


def _litserve(environment: Environment, models: Models, port: int, scratch: Path) -> Start:
    return Start([str(environment.python), "-m", f"{APPS}.litserve_app"], {"PORT": str(port)})


FASTAPI = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")
MLFLOW = ("mlflow==3.17.2", "uvicorn[standard]==0.54.0")
MLSERVER = ("mlserver==1.7.1", "uvloop==0.21.0")
"""Workers of MLServer 1.7.1 do not start with the uvloop releases after that."""
PEERS: tuple[Peer, ...] = (
    Peer(
        "fastapi", "FastAPI + uvicorn, 1 worker", "fastapi", FASTAPI, protocols.plain("/predict"), _uvicorn(1),
        "uvicorn with uvloop and httptools, no access log; pydantic models in and out, `async def`",
    ),
    Peer(
        "fastapi-2", "FastAPI + uvicorn, 2 workers", "fastapi", FASTAPI, protocols.plain("/predict"), _uvicorn(2),
        "the same with --workers 2, a process per core as the documentation says",
    ),
    Peer(
        "ray-serve", "Ray Serve, default", "ray-serve", ("ray[serve]==2.60.0",), protocols.plain("/predict"), _ray,
        "a deployment as its guide writes one, one replica, the default proxy",
    ),
    Peer(
        "mlserver", "MLServer", "mlserver", MLSERVER, protocols.open_inference(NAME), _mlserver,
        "custom runtime, a tensor per column; parallel_workers=0, which is faster for single rows than its workers",
    ),
    Peer(
        "mlflow", "mlflow models serve", "mlflow", MLFLOW, protocols.invocations(), _mlflow,
        "the registered model as it is (pyfunc, data frames), --workers 2; with uvloop beside it, because without, its "
        "answers leave in two packets and the second waits 40 ms for a delayed ACK",
    ),
    Peer(
        "bentoml", "BentoML", "bentoml", ("bentoml==1.4.40",), protocols.plain("/predict"), _bentoml,
        "a service with workers=2, one API parameter per column",
    ),
    Peer(
        "litserve", "LitServe", "litserve", ("litserve==0.2.19",), protocols.plain("/predict"), _litserve,
        "workers_per_device=2",
    ),
)  # fmt: skip
TITLES = {peer.name: peer.title for peer in PEERS}
