"""Everything that one replica of the endpoint holds, put together: models, routing, accounts, logs, and the tasks that
connect it to the rollout controller."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import uuid
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from raymlops.rollout.ledger import persisted_document
from raymlops.serving.accounts import Accounts
from raymlops.serving.answering import Answerer
from raymlops.serving.args import EndpointArgs
from raymlops.serving.candidates import Isolated
from raymlops.serving.controller_link import ControllerLink
from raymlops.serving.document import ModelRef, RoutingDocument
from raymlops.serving.follower import Follower
from raymlops.serving.hosting import Batching, Host
from raymlops.serving.labels import LabelStore
from raymlops.serving.lane import alone
from raymlops.serving.logs import configure_logging, log_event, log_left_out
from raymlops.serving.loop_runner import LoopRunner
from raymlops.serving.metrics import Counts, MetricsExporter
from raymlops.serving.outbox import Outbox
from raymlops.serving.prediction_log import PredictionLog
from raymlops.serving.protocol import Wanted
from raymlops.serving.reporter import ReplicaReporter
from raymlops.serving.router import Router, described
from raymlops.serving.routing import Routing, make_routing
from raymlops.serving.shadow import Mirror
from raymlops.store import Store

logger = logging.getLogger("raymlops.serving")
METRICS_SECONDS = 1.0
STOP_SECONDS = 5.0
GC_OBJECTS = 50_000
"""New containers until Python looks for cycles among them. Requests leave none, but what waits to be logged is ten
thousand containers twice a second, and at Python's 700 going through them would cost as much as writing them."""


class Replica:
    """`start` and `stop` frame its life. Belongs to the event loop that it was made on."""

    def __init__(self, endpoint: dict[str, Any], champion: dict[str, str]) -> None:
        """Blocks until the champion is loaded. Raises RaymlopsError or OSError when it cannot be."""
        import torch

        args = EndpointArgs.model_validate(endpoint)
        self.name, self.config = args.name, args.serving
        config, limits, candidate = self.config, self.config.limits, self.config.candidate
        torch.set_num_threads(config.threads)
        gc.set_threshold(GC_OBJECTS)
        device = "cuda" if config.gpus > 0 and torch.cuda.is_available() else "cpu"
        self.id = uuid.uuid4().hex
        configure_logging(endpoint=self.name, replica=self.id)
        self._store = Store(args.storage)
        self.counts = Counts()
        batching = Batching(config.batch_rows, config.batch_wait_ms / 1000, self.counts.batch, alone)
        self._host = Host(self._store, self.name, device, batching)
        built_in = ModelRef(**champion)
        self._link = ControllerLink(self.name, args.controller_config(built_in))
        budget_s = candidate.budget_ms / 1000
        self.accounts = Accounts(self.id, budget_s, limits.timeout_s)
        self._outbox = Outbox(self.id)
        self._reporter = ReplicaReporter(self.accounts, self._outbox, self._link.report)
        self._log = None
        if config.log.enabled:
            make = LoopRunner(asyncio.get_running_loop())
            self._log = PredictionLog(self._store, self.name, self.id, config.log, make)
        self.labels = LabelStore(self._store, self.name)
        mirror = Mirror(self.accounts, self._log, budget_s, candidate.max_in_flight)
        self.answerer = Answerer(self.name, self.accounts, self._log, budget_s, mirror, config.log_requests)
        self._remotes: dict[str, Isolated] = {}
        self._facts = {"id": self.id, "build": args.build, "failed": {}}
        self._follower = Follower(self._host, self._facts, self._link, self._adopt)
        self._exporter = MetricsExporter(self.counts, self.name)
        self._tasks: list[asyncio.Task[None]] = []
        self.routing = self._first_routing(built_in)

    def _first_routing(self, built_in: ModelRef) -> Routing:
        """By the controller's document, else the one it wrote last, else the version that the application was built
        with. Isolated candidates are connected as soon as the replica runs; until then the champion answers for them,
        in nobody's account."""
        document = self._link.first_document(self._facts) or persisted_document(self._store, self.name)
        if document is None:
            document = RoutingDocument(self.name, term=0, version=0, champion=built_in)
        router = Router(document)
        for model in router.models:
            self._host.load(model)
        self._first = document
        if any(arm.app is not None for arm in router.arms):
            router = Router(RoutingDocument(self.name, term=0, version=0, champion=document.champion))
        return self._make(router)

    def start(self) -> None:
        """Starts the tasks; they have a context of their own, as they serve no request."""
        self._spawn(self._follower.run(self._first))
        self._spawn(self._reporter.run())
        self._spawn(self._export())

    async def stop(self) -> None:
        """Brings away what is still here: reports, predictions, labels."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            self._reporter.add(self.accounts.take(time.time()))
            await asyncio.wait_for(self._reporter.deliver(), STOP_SECONDS)
        if self._log is not None:
            await asyncio.to_thread(self._log.close, STOP_SECONDS)
        await asyncio.to_thread(self.labels.close, STOP_SECONDS)

    def order(self, wanted: Wanted) -> str:
        """Put an order to retrain where the loop looks for it; returns its name. Raises StoreError."""
        from raymlops.retraining import orders

        return orders.place(self._store, self.name, wanted.reason, wanted.by, name=wanted.id).id

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(Context().run(asyncio.get_running_loop().create_task, work))

    async def _adopt(self, router: Router) -> None:
        import ray
        from ray import serve

        wanted = {arm.app for arm in router.arms if arm.app is not None}
        for app in wanted - self._remotes.keys():
            cluster = ray.get_runtime_context().gcs_address
            self._remotes[app] = Isolated(app, self.config.candidate, cluster, serve.get_app_handle)
        await asyncio.gather(*(self._remotes[app].known() for app in wanted))
        self.routing = self._make(router)
        log_event(logging.INFO, "document", **described(router))
        for app in self._remotes.keys() - wanted:
            # Requests that are under way to it still get their answers.
            asyncio.get_running_loop().call_later(self.config.limits.timeout_s, self._remotes.pop(app).close)

    def _make(self, router: Router) -> Routing:
        self._reporter.add(self.accounts.follow(router.document, time.time()))
        return make_routing(router, self._host, self._remotes, self.counts, self.config)

    async def _export(self) -> None:
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            log_left_out()
            try:
                log = None if self._log is None else self._log.statistics()
                self._exporter.flush(weights=self.routing.weights, log=log, labels=self.labels.statistics())
            except Exception as error:  # metrics are not worth a request
                logger.warning("cannot export metrics: %s", error)
