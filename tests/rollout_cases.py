"""An endpoint that exists only in memory: replicas that route, serve and report, candidates, a registry, a clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raymlops.chain import Entry
from raymlops.config.rollout import RolloutConfig
from raymlops.config.serving import ServingConfig
from raymlops.rollout import orders
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.evidence import Epoch, Reporter
from raymlops.rollout.evidence.assignment import Assignment
from raymlops.rollout.ledger import Ledger, verify
from raymlops.rollout.settings import EndpointSettings, reporter_config
from raymlops.rollout.steering import Steering
from raymlops.rollout.totals import BOUNDS, bucket
from raymlops.rollout.views import Replica, View
from raymlops.serving.document import ModelRef, RoutingDocument
from raymlops.store import Store

ENDPOINT = "trips"
TIMEOUT = 1.0
DT = 0.25
"""Seconds between two ticks."""


class Crash(BaseException):
    """The controller's process dies here."""


def model(version: int) -> ModelRef:
    return ModelRef(ENDPOINT, str(version), f"{version:064x}")


def settings(**rollout: Any) -> EndpointSettings:
    """Quick: no warm-up to speak of, few steps, a bound that a hundred clean requests prove."""
    chosen: dict[str, Any] = {
        "steps": [{"share": 0.2, "min_seconds": 1}, {"share": 0.5}],
        "warmup_seconds": 1.0,
        "deadline_seconds": 300.0,
        "cooldown_seconds": 20.0,
        "bake_seconds": 3.0,
        "comparisons": {"errors": {"kind": "rate", "excess": 0.2, "strata": 1}},
        **rollout,
    }
    serving = ServingConfig.model_validate({"limits": {"timeout_s": TIMEOUT}})
    config = RolloutConfig.model_validate(chosen)
    return EndpointSettings(ENDPOINT, "regression", "unused", None, serving, config, model(1))


@dataclass
class Behaviour:
    """What a model does with requests."""

    errors: float = 0.0
    latency: float = 0.01
    error: float = 0.0
    """Absolute error of its predictions."""


class FakeReplica:
    """Routes by its document, reports what is counted, resends what is not durable."""

    def __init__(self, name: str, build: str = "a") -> None:
        self.name, self.build = name, build
        self.document: RoutingDocument | None = None
        self.loaded: set[str] = set()
        self.unloadable: set[str] = set()
        self.sequence = 0
        self.outbox: list[dict[str, Any]] = []
        self.answered: dict[str, int] = {}
        self.seen_arms: dict[tuple[str, str], set[int]] = {}
        self.alive = self.reachable = True
        self._rollout: str | None = None
        self._reporter: Reporter | None = None
        self._salts: list[str] = []
        self.first_requests = 0
        """Reported so far."""
        self._fresh()

    def _fresh(self) -> None:
        self._totals: dict[tuple[int, int], dict[str, Any]] = {}
        self._latencies: list[list[float]] = []
        self._predictions: list[list[Any]] = []
        self._labels: list[list[Any]] = []

    def take(self, document: RoutingDocument) -> None:
        """Follow a document, if it is newer."""
        if self.document is not None and document.order <= self.document.order:
            return
        if document.rollout != self._rollout:
            self._flush(0.0)
            self._fresh()
            self._rollout, self._salts, self._reporter = document.rollout, [], None
        self.document = document
        wanted = {document.champion, *document.resident}
        self.loaded = {ref.sha256 for ref in wanted} - self.unloadable
        if (document.rates or document.latency or document.quality) and self._reporter is None:
            self._reporter = Reporter(self.name, reporter_config(document, TIMEOUT))
        if document.salt and document.salt not in self._salts:
            self._salts.append(document.salt)
        if self._reporter is not None:
            block = len(self._salts) - 1
            shares = document.floats
            self._reporter.follow(Epoch(document.epoch, block, document.salt, shares, document.counted))

    def serve(self, key: str, now: float, world: FakeWorld) -> str:
        """One request; returns the version that answers."""
        document = self.document
        assert document is not None, "no traffic before a document"
        arm, request = 0, None
        if document.shares:
            assignment = Assignment(len(document.shares))
            assignment.epochs = [Epoch(0, 0, document.salt, document.floats)]
            stamp = assignment.route(key)._replace(epoch=document.epoch)
            arm = stamp.arm
            if self._reporter is not None:
                request = self._reporter.routed(stamp, now)
            self.seen_arms.setdefault((document.salt, key), set()).add(arm)
        chosen = document.arms[arm].model if document.arms else document.champion
        if arm and document.arms[arm].app is not None:
            assert document.arms[arm].app in world.running, "traffic to a candidate that does not run"
        behaviour = world.behaviour.get(chosen.version, Behaviour())
        bad = world.rng.random() < behaviour.errors
        latency = behaviour.latency * world.rng.lognormvariate(0.0, 0.3)
        if request is not None and document.counted:
            for metric, event in document.rates.items():
                if bad and event in ("errors", "fallbacks"):
                    self._reporter.happened(request, metric)
            for rule in document.latency:
                if latency > rule.limit(arm != 0):
                    self._reporter.happened(request, rule.metric)
        if document.quality and document.counted and request is not None:
            identity = f"{self.name}-{now}-{key}"
            self._predictions.append([identity, document.epoch, arm, request.stamp.key, now, 100.0 + behaviour.error])
            self._labels.append([identity, 100.0, now + 0.5, None])
        row = self._totals.setdefault(
            (document.epoch if document.rollout else -1, arm),
            {"requests": 0, "errors": 0, "timeouts": 0, "fallbacks": 0, "latency": [0] * (len(BOUNDS) + 1)},
        )
        row["requests"] += 1
        row["errors"] += bad
        row["fallbacks"] += bad
        row["latency"][bucket(latency)] += 1
        self._latencies.append([arm, latency])
        answering = document.champion if bad and arm else chosen
        self.answered[answering.version] = self.answered.get(answering.version, 0) + 1
        return answering.version

    def _flush(self, now: float) -> None:
        self.sequence += 1
        report = None
        if self._reporter is not None:
            report = replace(self._reporter.report(now), sequence=self.sequence).to_dict()
            self.first_requests += sum(row["count"] for row in report["first_requests"])
        totals = [
            {"epoch": e, "arm": a, **row, "latency": list(row["latency"])} for (e, a), row in self._totals.items()
        ]
        self.outbox.append(
            {
                "replica": self.name,
                "sequence": self.sequence,
                "rollout": self._rollout,
                "report": report,
                "latencies": self._latencies,
                "predictions": self._predictions,
                "labels": self._labels,
                "totals": totals,
            }
        )
        self._latencies, self._predictions, self._labels = [], [], []

    def deliver(self, steering: Steering, now: float) -> None:
        """Send what is new; resend from where the controller says."""
        self._flush(now)
        n = self.outbox[-1]["sequence"]
        while True:
            found = [p for p in self.outbox if p["sequence"] == n]
            if not found:
                return
            reply = steering.take({**found[0], "held_from": self.outbox[0]["sequence"]})
            if reply["next"] is None:
                return
            self.outbox = [p for p in self.outbox if p["sequence"] > reply["durable"]]
            n = reply["next"]


@dataclass
class FakeWorld:
    """Everything that outlives a controller."""

    store: Store
    settings: EndpointSettings
    seed: int = 0
    now: float = 1_000_000.0
    behaviour: dict[str, Behaviour] = field(default_factory=dict)
    replicas: list[FakeReplica] = field(default_factory=lambda: [FakeReplica("r0"), FakeReplica("r1")])
    running: dict[str, ModelRef] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """Application → why it fails."""
    alias: str = "1"
    tags: dict[str, str] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    registry_down: bool = False
    memory: int | None = None
    keys: int = 100_000
    requests: int = 20
    """Per tick."""
    crash_at: int | None = None
    points: int = 0
    """How often a crash could have happened."""
    where: list[str] = field(default_factory=list)
    wins: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.steering = self.controller()

    def point(self, name: str) -> None:
        """The process may die here."""
        self.points += 1
        self.where.append(name)
        if self.crash_at is not None and self.points == self.crash_at:
            raise Crash(name)

    def controller(self, identity: str = "c", effects: Any = None) -> Steering:
        ledger = CrashingLedger(self.store, ENDPOINT, self)
        return Steering(self.settings, ledger, effects or self, identity=identity)

    # -- Effects -------------------------------------------------------------------------------------------------

    def view(self, now: float) -> View:
        live = [
            Replica(
                r.name,
                r.build,
                None if r.document is None else r.document.order,
                frozenset(r.loaded),
                dict.fromkeys(r.unloadable & self._wanted(r), "does not fit"),
                self.memory,
            )
            for r in self.replicas
            if r.alive
        ]
        apps = {a: ("failed", self.broken[a]) if a in self.broken else ("ready", "") for a in self.running}
        return View(live, apps, 10.0)

    @staticmethod
    def _wanted(replica: FakeReplica) -> set[str]:
        document = replica.document
        return set() if document is None else {ref.sha256 for ref in (document.champion, *document.resident)}

    def publish(self, document: RoutingDocument) -> None:
        self.point(f"before push {document.order}")
        for replica in self.replicas:
            if replica.reachable:
                replica.take(document)
        self.point(f"after push {document.order}")

    def run(self, applications: Mapping[str, ModelRef]) -> None:
        if dict(applications) != self.running:
            self.point("before applications")
            self.running = dict(applications)
            self.point("after applications")

    def settle(self, conductor: Conductor, now: float) -> None:
        if self.registry_down:
            return
        self.owed = conductor.alias_owed()
        for name, task in list(conductor.tasks.items()):
            self.point(f"before {name}")
            if task.kind == "tag":
                self.tags[task.payload["version"]] = task.payload["text"]
            elif task.kind == "notify":
                self.told.append(task.payload)
            else:
                self.ended.append(task.payload["end"])
            self.point(f"after {name}")
            self.steering.done(name)

    # -- time ----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """A stretch of traffic, reports, and one tick of the controller; if it dies, the next one takes over."""
        self.now += DT
        for _ in range(self.requests):
            live = [r for r in self.replicas if r.alive and r.document is not None]
            if live:
                self.rng.choice(live).serve(f"key-{self.rng.randrange(self.keys)}", self.now, self)
        for replica in self.replicas:
            if replica.alive and replica.reachable and replica.document is not None:
                replica.deliver(self.steering, self.now)
        try:
            self.owed: str | None = None
            await self.steering.tick(self.now)
            if self.owed is not None:
                self.point("before alias")
                found, self.alias = self.alias, self.owed
                self.point("after alias")
                await self.steering.alias_moved(self.owed, found, self.now)
        except Crash:
            self.steering = self.controller()

    async def until(self, condition: Any, seconds: float = 400.0) -> None:
        end = self.now + seconds
        while not condition():
            assert self.now < end, f"not within {seconds} s: {self.conductor.rollout}, {self.steering.error}"
            await self.tick()

    async def seconds(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            await self.tick()

    async def begin(self, *versions: int, mode: str = "canary", force: bool = False, by: str = "me") -> Entry:
        models = [model(v) for v in versions]

        def make(conductor: Conductor) -> Any:
            return orders.begin(conductor, self.settings, models, mode=mode, force=force, by=by, now=self.now, tags=())

        return await self.steering.order(make, self.now)

    @property
    def conductor(self) -> Conductor:
        return self.steering.conductor

    @property
    def ledger(self) -> list[Entry]:
        return verify(self.store, ENDPOINT)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.ledger if entry.kind != "term"]

    def over(self) -> bool:
        return (
            self.steering.phase == "active"
            and self.conductor.rollout is None
            and self.conductor.last is not None
            and not self.conductor.tasks
            and self.conductor.alias_owed() is None
        )

    def check_agreement(self) -> None:
        """Registry, ledger, document and every replica name the same champion, and nothing else runs."""
        champion = self.conductor.champion
        assert champion is not None and self.alias == champion.version == self.conductor.alias
        assert self.running == {}
        for replica in self.replicas:
            if replica.alive and replica.reachable:
                assert replica.document is not None and replica.document.champion == champion
                assert replica.document.arms == ()


class CrashingLedger(Ledger):
    """A ledger whose process may die before and after each write that decides something."""

    def __init__(self, store: Store, endpoint: str, world: FakeWorld) -> None:
        super().__init__(store, endpoint)
        self.world = world

    def append(self, entry: Entry) -> None:
        self.world.point(f"before entry {entry.kind}")
        super().append(entry)
        self.world.point(f"after entry {entry.kind}")

    def save_document(self, document: RoutingDocument) -> None:
        self.world.point(f"before document {document.order}")
        super().save_document(document)


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


def with_settings(tmp_path: Path, **rollout: Any) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings(**rollout))


async def started(world: FakeWorld, *versions: int, **options: Any) -> None:
    await world.tick()
    await world.begin(*(versions or (2,)), **options)
