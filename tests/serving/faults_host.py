"""A program: an endpoint with two replicas behind Serve's default proxy, and its rollout controller.

    python faults_host.py ARGS.json PORT    then one JSON order per line on stdin, one JSON answer per line on stdout

A process of its own, so that what is killed in it is nobody else's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from raymlops.serving.args import EndpointArgs
from raymlops.serving.environment import MIDDLEWARE

ANSWER_SECONDS = 60.0


class Endpoint:
    """Answers orders; see the methods."""

    def __init__(self, args: EndpointArgs, port: int) -> None:
        os.environ.update({**MIDDLEWARE, "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"})
        import ray
        from ray import serve

        from raymlops.rollout.controller import ensure_controller
        from raymlops.serving.app import application

        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        champion = args.stage_champion()
        self._name, self._config = args.name, args.controller_config(champion)
        ensure_controller(self._config)
        serve.run(application(args, champion), name=args.name, route_prefix="/")

    def order(self, orders: list[list[Any]], patient: bool = False) -> list[dict[str, Any]]:
        """Methods of the controller with their arguments, all called before any has answered. `patient` asks again
        while the controller is being started anew: only for what may be asked twice."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        from raymlops.rollout.controller import ensure_controller

        until = time.monotonic() + ANSWER_SECONDS
        while True:
            controller = ensure_controller(self._config)
            waiting = [getattr(controller, method).remote(*arguments) for method, *arguments in orders]
            answers: list[dict[str, Any]] = []
            for one in waiting:
                try:
                    answers.append({"ok": ray.get(one, timeout=ANSWER_SECONDS)})
                except RayTaskError as error:
                    answers.append({"error": type(error.cause).__name__, "said": str(error.cause)})
                except RayActorError as error:
                    answers.append({"error": "Away", "said": str(error)[:200]})
            if not patient or time.monotonic() > until or all("ok" in answer for answer in answers):
                return answers
            time.sleep(0.05)  # not to wait for anything, but not to keep the machine busy with asking

    def stage(self, version: str) -> str:
        """The directory of the staged package."""
        from raymlops.registry.backend import tracking
        from raymlops.serving.packages import stage
        from raymlops.store import Store

        args = EndpointArgs.model_validate({k: v for k, v in json.loads(self._config).items() if k != "champion"})
        store = Store(args.storage)
        ref = stage(tracking(args.tracking_uri, store), store, f"{args.name}/{version}")
        return store.location(ref.path)

    def running(self, app: str) -> int:
        """Replicas of an application that Serve calls running."""
        from ray import serve

        found = serve.status().applications.get(app)
        return 0 if found is None else sum(d.replica_states.get("RUNNING", 0) for d in found.deployments.values())

    def end(self) -> None:
        import ray
        from ray import serve

        serve.delete(self._name, _blocking=False)
        serve.shutdown()
        ray.shutdown()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    args = EndpointArgs.model_validate_json(Path(sys.argv[1]).read_bytes())
    endpoint = Endpoint(args, int(sys.argv[2]))
    print(json.dumps({"ok": True}), file=answers, flush=True)
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
