"""A program: an endpoint behind HAProxy whose routing documents are written by hand.

    python hand.py ROOT REPLICAS      then one JSON order per line on stdin, one JSON answer per line on stdout

Serve reads its mode when it is imported, so a mode is a process.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from conftest import SERVING, free_port  # noqa: E402
from hand_client import eventually  # noqa: E402

from raymlops.rollout.totals import Totals  # noqa: E402
from raymlops.serving.args import EndpointArgs  # noqa: E402
from raymlops.serving.document import (  # noqa: E402
    NAMESPACE,
    Arm,
    ModelRef,
    RoutingDocument,
    candidate_app,
    controller_name,
)
from raymlops.serving.environment import prepare  # noqa: E402


class HandController:
    """Serves whatever document it was given last, and keeps what replicas report."""

    def __init__(self, document: str) -> None:
        self._document = RoutingDocument.from_json(document)
        self._changed = asyncio.Condition()
        self._replicas: dict[str, dict[str, Any]] = {}
        self._totals: dict[str | None, Totals] = {}
        self._events: list[dict[str, Any]] = []
        self._firsts = 0

    async def document(
        self, replica: dict[str, Any], known: list[int] | None, loaded: list[str], timeout_s: float
    ) -> str | None:
        if known is not None:
            self._replicas[replica["id"]] = {"known": known, "loaded": loaded, "at": time.time(), **replica}
        try:
            async with asyncio.timeout(min(timeout_s, 5.0)), self._changed:
                await self._changed.wait_for(lambda: known != list(self._document.order))
        except TimeoutError:
            return None if known == list(self._document.order) else self._document.to_json()
        return self._document.to_json()

    async def report(self, payload: bytes) -> dict[str, Any]:
        message = json.loads(payload)
        totals = self._totals.setdefault(message["rollout"], Totals())
        totals.take(message["replica"], message["totals"])
        if message["report"] is not None:
            self._events += message["report"]["events"]
            self._firsts += len(message["report"]["first_requests"])
        return {"durable": message["sequence"], "next": message["sequence"] + 1}

    async def write(self, document: str) -> None:
        async with self._changed:
            self._document = RoutingDocument.from_json(document)
            self._changed.notify_all()

    async def seen(self, rollout: str | None) -> dict[str, Any]:
        totals = self._totals.get(rollout, Totals())
        arms = {arm: totals.of_arm(arm).to_dict() for arm in range(3)}
        return {"replicas": self._replicas, "arms": arms, "events": self._events, "firsts": self._firsts}


class Endpoint:
    """Answers orders; see the methods."""

    def __init__(self, root: Path, replicas: int) -> None:
        self._run = Path(tempfile.mkdtemp(prefix="hand-", dir="/tmp"))  # paths of sockets have to be short
        prepare("haproxy", self._run)
        os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0"
        import ray
        from ray import serve
        from serving_models import endpoint_config

        from raymlops.serving.app import application

        self.port = free_port()
        limits = {"ongoing": 16, "queued": 16, "timeout_s": 3.0}
        candidate = {**SERVING["candidate"], "budget_ms": 500, "breaker_failures": 3, "breaker_seconds": 1.0}
        serving = {**SERVING, "proxy": "haproxy", "replicas": replicas, "port": self.port, "candidate": candidate}
        self.args = EndpointArgs.of(endpoint_config(root, serving={**serving, "limits": limits}))
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        self._session = Path(ray.init(address="local", num_cpus=6, **quiet).address_info["session_dir"])
        serve.start(http_options={"host": "127.0.0.1", "port": self.port})
        champion = self.args.stage_champion()
        self.document = RoutingDocument(self.args.name, term=1, version=1, champion=champion)
        self.controller = (
            ray.remote(HandController)
            .options(
                name=controller_name(self.args.name),
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=0,
                max_concurrency=1000,
            )
            .remote(self.document.to_json())
        )
        serve.run(application(self.args, champion), name=self.args.name, route_prefix="/")

    def stage(self, version: str) -> ModelRef:
        from raymlops.registry.backend import tracking
        from raymlops.serving.packages import stage
        from raymlops.store import Store

        store = Store(self.args.storage)
        return stage(tracking(self.args.tracking_uri, store), store, f"{self.args.name}/{version}")

    def deploy(self, version: str) -> str:
        """An isolated candidate; returns its application when it runs."""
        from ray import serve

        from raymlops.serving.app import candidate_target

        model = self.stage(version)
        serve.run_many([candidate_target(self.args, model)])
        return candidate_app(self.args.name, model)

    def delete(self, version: str) -> None:
        from ray import serve

        serve.delete(candidate_app(self.args.name, self.stage(version)))

    def write(self, champion: str | None = None, arms: Sequence[list[Any]] = (), **fields: Any) -> list[int]:
        """The next document; arms are [version, isolated]. Returns its order."""
        import ray

        before = self.document
        made = [self.stage(version) for version, _ in arms]
        found = tuple(
            Arm(m, candidate_app(self.args.name, m) if isolated else None)
            for m, (_, isolated) in zip(made, arms, strict=True)
        )
        plain = RoutingDocument(before.endpoint, before.term, before.version + 1, before.champion, found)
        fields["resident"] = tuple(self.stage(version) for version in fields.pop("resident", []))
        fields["shares"] = tuple(fields.pop("shares", []))
        self.document = replace(plain, **fields)
        if champion is not None:
            self.document = replace(self.document, champion=self.stage(champion))
        ray.get(self.controller.write.remote(self.document.to_json()))
        return list(self.document.order)

    def seen(self, rollout: str | None = None) -> dict[str, Any]:
        import ray

        return dict(ray.get(self.controller.seen.remote(rollout)))

    def pids(self, app: str | None = None) -> list[int]:
        """Processes of an application's replicas."""
        import psutil

        title = f"ray::ServeReplica:{app or self.args.name}:"
        family = psutil.Process().children(recursive=True)
        return [process.pid for process in family if (process.cmdline() or [""])[0].startswith(title)]

    def logged(self) -> list[dict[str, Any]]:
        """What the replicas logged so far."""
        texts = [path.read_text() for path in (self._session / "logs").glob("worker-*.err")]
        return [json.loads(line) for text in texts for line in text.splitlines() if line.startswith('{"time"')]

    def end(self) -> None:
        import ray
        from ray import serve

        for app in list(serve.status().applications):
            serve.delete(app, _blocking=False)
        eventually("Serve has ended them", lambda: not serve.status().applications)
        ray.shutdown()
        shutil.rmtree(self._run, ignore_errors=True)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    endpoint = Endpoint(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"port": endpoint.port}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": getattr(endpoint, order["do"])(**order["with"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)
    endpoint.end()


if __name__ == "__main__":
    main()
