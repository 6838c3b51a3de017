"""Carries decisions out, in the order that survives a crash anywhere: state, ledger entry, document, effects.

Everything that may block (the store) goes through `io`, so that the actor can move it to a thread and tests need not.
One lock keeps entries in order; reports and acknowledgements need none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from raymlops.chain import GENESIS, Deposed, Entry
from raymlops.errors import RaymlopsError, Refused
from raymlops.rollout import orders
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.ledger import Ledger
from raymlops.rollout.settings import EndpointSettings
from raymlops.rollout.views import Intent, View
from raymlops.serving.document import ModelRef, RoutingDocument
from raymlops.store import StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")
Io = Callable[..., Awaitable[Any]]

SAVE_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
"""A state is written at least so often, by which others see that its controller lives."""
SILENCE_SECONDS = 60.0
"""After so long without a sign of the newer controller, a deposed one takes over again."""
_SAVE_COST = 20.0
"""Large states are written less often: at most this fraction, 1 in 20, of the time goes into it."""
_MAX_STEPS = 8
"""Entries that may follow each other in one tick."""


class Effects(Protocol):
    """The world outside, as far as the ledger orders it. None of these blocks or raises; they are asked again."""

    def view(self, now: float) -> View:
        """What is seen of the endpoint."""

    def publish(self, document: RoutingDocument) -> None:
        """Push a stored document to the replicas."""

    def run(self, applications: Mapping[str, ModelRef]) -> None:
        """Make exactly these candidates run."""

    def settle(self, conductor: Conductor, now: float) -> None:
        """Work on `conductor.tasks` and on the alias it owes; call `done` or `alias_moved` later."""


async def direct(function: Callable[..., T], *arguments: Any) -> T:
    """Blocking calls made in place: for tests, and stores that answer at once."""
    return function(*arguments)


class Steering:
    """One controller's life. `recover` before anything else."""

    def __init__(
        self, settings: EndpointSettings, ledger: Ledger, effects: Effects, *, identity: str, io: Io = direct
    ) -> None:
        self.settings, self.ledger, self.effects, self.identity, self._io = settings, ledger, effects, identity, io
        self.conductor = Conductor(settings.name, settings.task)
        self.phase = "recovering"
        """`recovering`, `active`, or `passive` while another controller is in charge."""
        self.error: str | None = None
        """Why it is degraded: what is in force stays in force, and nothing new is decided."""
        self.published: RoutingDocument | None = None
        self.durable: dict[str, int] = {}
        self._lock = asyncio.Lock()
        self._saved_at, self._saving_took, self._dirty = 0.0, 0.0, False

    # -- being in charge -----------------------------------------------------------------------------------------

    async def recover(self, now: float) -> None:
        """Take over: append the next term, then read the newest state and the entries after it.

        Raises StoreError or IntegrityError; may be called again.
        """
        async with self._lock:
            while True:
                last = await self._io(self._last_entry)
                n, head, term = (0, GENESIS, 0) if last is None else (last.n, last.sha256, last.term)
                entry = Entry(n + 1, term + 1, now, "term", {"controller": self.identity}, head)
                try:
                    await self._io(self.ledger.append, entry)
                    break
                except Deposed:
                    continue  # somebody took the term in this instant; the next one is free
            # Only now: whoever was in charge before sees the new entry before it calls anything durable.
            self.conductor = await self._io(self._restore)
            self.durable = dict(self.conductor.sequences)
            self.phase, self.error, self._dirty = "active", None, True
            if (intent := orders.settle(self.conductor, self.settings)) is not None:
                await self._carry_out(intent, now)
            await self._save(now)
            await self._publish()
            await self._io(self.ledger.forget_terms, self.conductor.term - 2)  # only now that there is a newer state

    def _last_entry(self) -> Entry | None:
        numbers = self.ledger.numbers()
        return Entry.from_bytes(self.ledger.store.read(self.ledger.path(numbers[-1]))) if numbers else None

    def _restore(self) -> Conductor:
        found = self.ledger.newest_state()
        conductor = (
            Conductor(self.settings.name, self.settings.task) if found is None else Conductor.from_json(found[1])
        )
        for entry in self.ledger.entries(after=conductor.n):
            conductor.apply(entry)
        return conductor

    async def tick(self, now: float) -> None:
        """Decide and act. Never raises for the store: it stays degraded and is called again."""
        try:
            if self.phase == "active":
                async with self._lock:
                    await self._tick(now)
            elif self.phase == "passive":
                await self._follow(now)
            else:
                await self.recover(now)
            self.error = None
        except Deposed as error:
            log.warning("%s; following it", error)
            self.phase = "passive"
        except (RaymlopsError, OSError) as error:
            if self.error is None:
                log.warning("degraded: %s", error)
            self.error = str(error)

    async def _tick(self, now: float) -> None:
        for _ in range(_MAX_STEPS):
            intent = self.conductor.decide(now, self.effects.view(now))
            if intent is None:
                break
            await self._carry_out(intent, now)
        self._refreeze(now)
        await self._publish()
        self.effects.run(self.conductor.applications())
        self.effects.settle(self.conductor, now)
        wait = max(SAVE_SECONDS, self._saving_took * _SAVE_COST) if self._dirty else HEARTBEAT_SECONDS
        if now >= self._saved_at + wait:
            await self._save(now)

    def _refreeze(self, now: float) -> None:
        rollout = self.conductor.rollout
        if rollout is not None and rollout.course is not None and rollout.course.refreeze_due(now):
            rollout.course.freeze(now)
            self._dirty = True

    async def _carry_out(self, intent: Intent, now: float) -> Entry:
        """State, then entry, then its consequences. Raises StoreError, and nothing happened, or Deposed."""
        entry = self.conductor.entry(intent, now)
        await self._save(now, entry)
        self.conductor.apply(entry)
        self._dirty = True
        await self._publish()
        return entry

    async def _publish(self) -> None:
        document = self.conductor.document()
        if document is None or (self.published is not None and self.published.order == document.order):
            return
        await self._io(self.ledger.save_document, document)
        self.published = document
        self.effects.publish(document)

    async def _save(self, now: float, entry: Entry | None = None) -> None:
        """Writes the state, and the entry that follows from it; what was reported before is durable if this controller
        is still in charge after it. One call, because each change of threads costs milliseconds on a busy machine."""
        sequences = dict(self.conductor.sequences)
        clock = asyncio.get_running_loop().time
        began = clock()
        data = self.conductor.to_json(now)
        self._dirty = False
        try:
            await self._io(self._write, self.conductor.term, data, self.conductor.n + 1, entry)
        except RaymlopsError:
            self._dirty = True
            raise
        self._saved_at, self._saving_took = now, clock() - began
        self.durable = sequences

    def _write(self, term: int, state: bytes, following: int, entry: Entry | None) -> None:
        self.ledger.save_state(term, state)
        if self.ledger.taken(following):
            raise Deposed(f"{self.settings.name}: a newer controller wrote to the ledger")
        if entry is not None:
            self.ledger.append(entry)

    async def _follow(self, now: float) -> None:
        """Passive: hand on the documents of whoever is in charge, and take over when nobody is."""
        document = await self._io(self.ledger.newest_document)
        if document is not None and (self.published is None or document.order > self.published.order):
            self.published = document
            self.effects.publish(document)
        if now >= await self._io(self._last_sign) + SILENCE_SECONDS:
            self.phase = "recovering"

    def _last_sign(self) -> float:
        import json

        found, last = self.ledger.newest_state(), self._last_entry()
        return max(0.0 if found is None else json.loads(found[1])["at"], 0.0 if last is None else last.at)

    # -- what replicas and people say ----------------------------------------------------------------------------

    def take(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Counts a report. What is in it may be forgotten by the replica when it is durable."""
        if self.phase != "active":
            return {"durable": 0, "next": None}
        following = self.conductor.take(payload)
        self._dirty = True
        return {"durable": self.durable.get(str(payload["replica"]), 0), "next": following}

    async def order(self, make: Callable[[Conductor], Intent], now: float) -> Entry:
        """Carry out what `make` answers to the present state. Raises Refused and StoreError."""
        async with self._lock:
            if self.phase == "passive":
                raise Refused(f"{self.settings.name}: another controller is in charge; ask on its cluster")
            if self.phase != "active":
                raise StoreError(f"{self.settings.name}: the controller is recovering: {self.error or 'starting'}")
            try:
                return await self._carry_out(make(self.conductor), now)
            except Deposed as error:
                self.phase = "passive"
                raise Refused(str(error)) from error

    async def alias_moved(self, version: str, found: str | None, now: float) -> None:
        """The registry's alias is where the ledger wants it; `found` is where it was before. Never raises."""
        async with self._lock:
            if self.phase == "active" and self.conductor.alias_owed() == version:
                try:
                    await self._carry_out(Intent("alias", {"version": version, "found": found}), now)
                except (Deposed, StoreError) as error:
                    log.warning("alias is moved, but not yet in the ledger: %s", error)

    def done(self, task: str) -> None:
        """A task was carried out."""
        if self.conductor.tasks.pop(task, None) is not None:
            self._dirty = True
