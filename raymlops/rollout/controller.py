"""The rollout controller: a detached actor around `Steering`. One per endpoint, found by name.

`__init__` does nothing that could fail: a detached actor whose constructor raises at a restart is dead for ever.
Everything else, reading the ledger first of all, is tried again until it succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raymlops.errors import RaymlopsError
from raymlops.rollout.views import Intent
from raymlops.serving.document import NAMESPACE, ModelRef, RoutingDocument, controller_name

if TYPE_CHECKING:
    from raymlops.rollout.conductor import Conductor
    from raymlops.rollout.parts import Parts

log = logging.getLogger(__name__)
TICK_SECONDS, PASSIVE_SECONDS = 0.1, 2.0
MAX_POLL_SECONDS = 5.0
MAX_BACKOFF = 5.0
MAX_CONCURRENCY = 1000


class Controller:
    """The actor's methods. All are quick or wait without holding anything up."""

    def __init__(self, config_json: str) -> None:
        self._config_json = config_json
        self._identity = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._trouble = "starting"
        self._parts: Parts | None = None
        self._main = asyncio.get_running_loop().create_task(self._live())

    async def _live(self) -> None:
        """Builds what the controller is made of, then ticks for ever."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                if self._parts is None:
                    self._parts = await asyncio.to_thread(_build, self._config_json, self._identity, self._publish)
                    self._parts.begin()
                    self._trouble = ""
                await self._parts.steering.tick(time.time())
                self._trouble = ""
                failures = failures + 1 if self._parts.steering.error else 0
            except Exception as error:  # a defect must not end what keeps the endpoint's traffic in order
                failures += 1
                self._trouble = f"{type(error).__name__}: {error}"
                log.exception("the controller goes on after an error")
            passive = self._parts is not None and self._parts.steering.phase == "passive"
            pause = PASSIVE_SECONDS if passive else TICK_SECONDS
            if failures:
                pause = min(MAX_BACKOFF, TICK_SECONDS * 2.0 ** min(failures, 10))
            await self._sleep(max(0.0, began + pause - time.monotonic()), failures == 0 and not passive)

    async def _sleep(self, seconds: float, may_wake: bool) -> None:
        if not may_wake:
            await asyncio.sleep(seconds)
            return
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
            await asyncio.sleep(0.005)  # what else arrives in this instant
        except TimeoutError:
            pass
        self._wake.clear()

    def _publish(self, document: RoutingDocument) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- replicas ------------------------------------------------------------------------------------------------

    async def document(
        self, replica: dict[str, Any], known: list[int] | None, loaded: list[str], timeout_s: float
    ) -> str | None:
        """The routing document as soon as it is not `known`, None after `timeout_s` seconds. The call says that the
        replica lives, which document it follows and which models it holds."""
        deadline = time.monotonic() + min(max(timeout_s, 0.0), MAX_POLL_SECONDS)
        identity: str | None = None
        try:
            while True:
                parts = self._parts
                if parts is not None and identity is None:
                    identity = parts.presence.asked(replica, known, loaded, time.time())
                    self._wake.set()
                found = None if parts is None else parts.steering.published
                if found is not None and list(found.order) != (None if known is None else list(known)):
                    return found.to_json()
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                try:
                    await asyncio.wait_for(self._changed.wait(), left if parts is not None else min(left, 0.05))
                except TimeoutError:
                    continue
        finally:
            if identity is not None and self._parts is not None:
                self._parts.presence.answered(identity, time.time())

    async def report(self, payload: bytes) -> dict[str, Any]:
        """Counts a report; see `Steering.take`."""
        import orjson

        if self._parts is None:
            return {"durable": 0, "next": None}
        return self._parts.steering.take(orjson.loads(payload))

    # -- people --------------------------------------------------------------------------------------------------

    async def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Stage `versions` and begin a rollout in `mode`; see `orders.begin` for what is refused."""
        from raymlops.rollout import orders, promotion
        from raymlops.serving import packages

        parts = self._built()
        settings, name = parts.settings, parts.settings.name
        staged: list[tuple[ModelRef, str | None]] = []
        sizes: list[int] = []
        changes: list[list[str]] = []
        champion = parts.steering.conductor.champion
        for version in spec["versions"]:
            found = await parts.outside.with_registry(promotion.stage, parts.registry, parts.store, name, str(version))
            sizes.append(await asyncio.to_thread(packages.size, parts.store, found[0]))
            staged.append(found)
            if champion is not None:
                changes.append(await asyncio.to_thread(packages.changes, parts.store, champion, found[0]))
        chosen = {"mode": spec.get("mode", "canary"), "force": bool(spec.get("force")), "by": str(spec.get("by", ""))}
        models, tags = [model for model, _ in staged], [tag for _, tag in staged]

        def make(conductor: Conductor) -> Intent:
            known: dict[str, Any] = {"tags": tags, "sizes": sizes, "changes": changes}
            return orders.begin(conductor, settings, models, now=time.time(), **known, **chosen)

        return await self._order(make)

    async def pause(self, by: str = "") -> dict[str, Any]:
        from raymlops.rollout import orders

        return await self._order(lambda conductor: orders.pause(conductor, by))

    async def resume(self, by: str = "") -> dict[str, Any]:
        from raymlops.rollout import orders

        return await self._order(lambda conductor: orders.resume(conductor, by, time.time()))

    async def promote(self, by: str = "", candidate: int | None = None) -> dict[str, Any]:
        from raymlops.rollout import orders

        parts = self._built()
        return await self._order(lambda c: orders.promote(c, parts.view(time.time()), by, candidate))

    async def abort(self, reason: str = "by order", by: str = "") -> dict[str, Any]:
        from raymlops.rollout import orders

        return await self._order(lambda conductor: orders.abort(conductor, reason, by, time.time()))

    async def status(self) -> dict[str, Any]:
        """Everything that is known, as plain data."""
        from raymlops.rollout.status import status_of

        if self._parts is None:
            return {"controller": {"state": "recovering", "error": self._trouble, "identity": self._identity}}
        return status_of(self._parts, time.time(), self._trouble)

    async def history(self) -> list[dict[str, Any]]:
        """The ledger. Raises StoreError or IntegrityError."""
        from dataclasses import asdict

        parts = self._built()
        return [asdict(entry) for entry in await asyncio.to_thread(parts.steering.ledger.entries)]

    async def _order(self, make: Callable[[Conductor], Intent]) -> dict[str, Any]:
        parts = self._built()
        entry = await parts.steering.order(make, time.time())
        self._wake.set()
        rollout = parts.steering.conductor.rollout
        return {"entry": entry.n, "kind": entry.kind, "rollout": None if rollout is None else rollout.base_id}

    def _built(self) -> Parts:
        if self._parts is None:
            raise RaymlopsError(f"the controller is starting: {self._trouble}")
        return self._parts


def _build(config_json: str, identity: str, publish: Callable[[RoutingDocument], None]) -> Parts:
    from raymlops.rollout.parts import Parts

    return Parts(config_json, identity, publish)


def ensure_controller(config_json: str) -> Any:
    """The endpoint's controller, made if there is none. Blocks; Ray must be initialised."""
    import json

    import ray

    name = controller_name(json.loads(config_json)["name"])
    actor = ray.remote(Controller).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=0,
        max_concurrency=MAX_CONCURRENCY,
    )
    return actor.remote(config_json)


def find_controller(endpoint: str) -> Any | None:
    """The endpoint's controller, None if there is none. Blocks; Ray must be initialised."""
    import ray

    try:
        return ray.get_actor(controller_name(endpoint), namespace=NAMESPACE)
    except ValueError:
        return None
