"""One local Ray with Serve's default proxy, and one endpoint on it, for all tests of this directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from raymlops.config.tree import Config
from raymlops.registry.package import ModelPackage
from raymlops.serving.args import EndpointArgs
from raymlops.serving.document import ModelRef
from raymlops.serving.environment import MIDDLEWARE

SERVING: dict[str, Any] = {
    "proxy": "default",
    "force_variant": True,
    "cpus": 0.1,
    "key": {"column": "user"},
    "limits": {"body_bytes": 200_000, "rows": 500, "timeout_s": 5.0},
    "candidate": {"cpus": 0.1, "budget_ms": 500},
    "log": {"flush_s": 0.1},
}
ROLLOUT: dict[str, Any] = {
    "steps": [{"share": 0.3, "min_seconds": 0}, {"share": 0.5}],
    "warmup_seconds": 0.5,
    "cooldown_seconds": 0,
    "bake_seconds": 1.0,
    "comparisons": {"errors": {"kind": "rate"}},
}


@dataclass
class Endpoint:
    """A running endpoint, as a client and as its administrator see it."""

    url: str
    root: Path
    config: Config
    args: EndpointArgs
    champion: ModelRef
    package: ModelPackage
    """The champion as loaded from the registry."""
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def name(self) -> str:
        return self.args.name

    @property
    def storage(self) -> str:
        return self.args.storage

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=20, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.session.post(self.url + path, timeout=20, **options)

    def rows(self, n: int = 1, seed: int = 9) -> list[dict[str, Any]]:
        from serving_models import json_rows

        return json_rows(n, seed)

    def predict(self, rows: list[dict[str, Any]], **headers: str) -> requests.Response:
        """By named columns; header names with `_` for `-`."""
        plain = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.post(f"/v2/models/{self.name}/rows", json={"rows": rows}, headers=plain)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def endpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store, in whose registry one version is the champion."""
    from serving_models import register

    root = tmp_path_factory.mktemp("endpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register(root)
    return root


@pytest.fixture(scope="session")
def serve_session() -> Iterator[int]:
    """Ray and Serve; gives the HTTP port."""
    os.environ.update({**MIDDLEWARE, "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"})
    import ray
    from ray import serve

    port = free_port()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="session")
def endpoint(serve_session: int, endpoint_root: Path) -> Endpoint:
    from ray import serve
    from serving_models import champion_package, endpoint_config

    from raymlops.rollout.controller import ensure_controller
    from raymlops.serving.app import application

    config = endpoint_config(endpoint_root, serving={**SERVING, "port": serve_session}, rollout=ROLLOUT)
    args = EndpointArgs.of(config)
    champion = args.stage_champion()
    ensure_controller(args.controller_config(champion))
    serve.run(application(args, champion), name=args.name, route_prefix="/")
    package = champion_package(endpoint_root)
    return Endpoint(f"http://127.0.0.1:{serve_session}", endpoint_root, config, args, champion, package)
