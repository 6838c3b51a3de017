"""Ray Serve as its getting-started guide writes a deployment: a class with `__call__`, default proxy."""

import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving_lib.apps.champion import Champion


@serve.deployment
class Flights:
    def __init__(self) -> None:
        self.champion = Champion()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"prediction": self.champion.minutes(await request.json())}


if __name__ == "__main__":
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Flights.bind(), route_prefix="/predict")
    signal.sigwait(signals)
    ray.shutdown()
