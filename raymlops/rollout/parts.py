"""What the controller is made of: the endpoint and the world as `Steering` sees them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from raymlops.errors import ConfigError
from raymlops.registry.backend import tracking
from raymlops.rollout.candidates import Deployer
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.gauges import export
from raymlops.rollout.ledger import Ledger
from raymlops.rollout.outside import Outside
from raymlops.rollout.presence import Presence
from raymlops.rollout.settings import EndpointSettings
from raymlops.rollout.steering import Steering
from raymlops.rollout.views import View
from raymlops.serving.args import EndpointArgs
from raymlops.serving.document import ModelRef, RoutingDocument
from raymlops.store import Store

MLFLOW_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's client would try for minutes, in ever longer intervals; the controller tries again itself, see `Outside`."""


class Parts:
    """What the controller is made of, and the world as `Steering` sees it."""

    def __init__(self, config_json: str, identity: str, publish: Callable[[RoutingDocument], None]) -> None:
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            self.settings = settings = EndpointSettings.from_json(config_json)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the controller's configuration is wrong: {error}") from error
        self.store = Store(settings.storage)
        self.registry = tracking(settings.tracking_uri, self.store)
        self.presence = Presence()
        self.publish = publish
        args = EndpointArgs(
            name=settings.name,
            task=settings.task,
            storage=settings.storage,
            tracking_uri=settings.tracking_uri,
            serving=settings.serving,
            rollout=settings.rollout,
        )
        self.deployer = Deployer(args)
        ledger = Ledger(self.store, settings.name)
        self.steering = Steering(settings, ledger, self, identity=identity, io=asyncio.to_thread)

    def begin(self) -> None:
        """On the controller's loop."""
        settings, steering = self.settings, self.steering
        self.outside = Outside(
            self.registry,
            settings.name,
            settings.rollout.notify,
            done=steering.done,
            alias_moved=steering.alias_moved,
        )
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(work) for work in (self.deployer.run(), export(steering))]

    def view(self, now: float) -> View:
        replicas = self.presence.live(now)
        settled_s, complete = self.presence.settled_s(now), self.presence.complete(now)
        return View(replicas, self.deployer.status(), settled_s, complete)

    def run(self, applications: Mapping[str, ModelRef]) -> None:
        self.deployer.want(applications)

    def settle(self, conductor: Conductor, now: float) -> None:
        self.outside.settle(conductor, now)
