"""What an endpoint's controller knows and decides: a state that is a function of ledger entries and reports.

    intent = conductor.decide(now, view)      # the next entry of the ledger, or None
    …append it to the ledger…                 # nothing has happened yet
    conductor.apply(entry)                    # now it has
    conductor.document()                      # where traffic goes, which candidates run: derived, never commanded

What the world should look like is read off the state, so recovering from a crash is loading the last state, applying
the entries after it, and making the world look like that again. No I/O, no clock, no Ray, no MLflow.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raymlops.chain import GENESIS, Entry
from raymlops.rollout import projection
from raymlops.rollout.consequences import apply
from raymlops.rollout.decisions import decide
from raymlops.rollout.totals import Totals
from raymlops.rollout.trial import Rollout, Task
from raymlops.rollout.views import Intent, View
from raymlops.serving.document import ModelRef, RoutingDocument

CHAMPION_LATENCIES = 2000
_MAX_REPLICAS = 256


class Conductor:
    """The state of one endpoint's control."""

    def __init__(self, endpoint: str, task: str) -> None:
        self.endpoint, self.task = endpoint, task
        self.n, self.head, self.term = 0, GENESIS, 0
        self.champion: ModelRef | None = None
        self.warm: ModelRef | None = None
        """The champion before, kept in memory until the next rollout."""
        self.alias: str | None = None
        """Version that the registry's alias is known to have been given by the ledger's order."""
        self.rollout: Rollout | None = None
        self.last: dict[str, Any] | None = None
        """How the last rollout ended."""
        self.ended: dict[str, int] = {}
        """Verdict → how many rollouts ended by it."""
        self.attempts: dict[str, int] = {}
        """Package hash → how often it was compared."""
        self.rolled_back: dict[str, str] = {}
        """Package hash → why it was taken back."""
        self.tasks: dict[str, Task] = {}
        """What is owed to the world outside of the endpoint: tags, notifications, the end of the MLflow run."""
        self.sequences: dict[str, int] = {}
        """Replica → number of its last report that was counted."""
        self.lost_reports = 0
        self.totals = Totals()
        """Requests since the last rollout."""
        self.latencies: deque[float] = deque(maxlen=CHAMPION_LATENCIES)
        self._version, self._shown = 0, ""

    # -- deciding and applying -----------------------------------------------------------------------------------

    def decide(self, now: float, view: View) -> Intent | None:
        """The next entry, or None. The same question has the same answer until an entry is applied."""
        return decide(self, now, view)

    def entry(self, intent: Intent, at: float, term: int | None = None) -> Entry:
        """The intent as the ledger's next entry."""
        return Entry(self.n + 1, self.term if term is None else term, at, intent.kind, intent.payload, self.head)

    def apply(self, entry: Entry) -> None:
        """Makes the entry true. Deterministic: recovery applies the same entries again."""
        apply(self, entry)
        self.n, self.head = entry.n, entry.sha256

    def begin_term(self, term: int) -> None:
        """Documents of a term are numbered from 1."""
        self.term, self._version, self._shown = term, 0, ""

    # -- reports -------------------------------------------------------------------------------------------------

    def take(self, payload: Mapping[str, Any]) -> int:
        """Counts a report, each once and in order. Returns the number that is expected next from its replica.

        A report that is not the next is left out: the replica holds what this controller lost and sends it again.
        What the replica had to drop itself (`held_from`) is not waited for.
        """
        replica, sequence = str(payload["replica"]), int(payload["sequence"])
        last = self.sequences.get(replica, 0)
        expected = max(last + 1, int(payload.get("held_from", sequence)))
        if sequence != expected:
            return expected if sequence > last else last + 1
        self.lost_reports += sequence - last - 1
        self.sequences.pop(replica, None)
        self.sequences[replica] = sequence
        if len(self.sequences) > _MAX_REPLICAS:
            del self.sequences[next(iter(self.sequences))]
        rollout = self.rollout
        if rollout is not None and payload.get("rollout") == rollout.id:
            if rollout.course is not None:
                rollout.course.take(replica, payload)
            else:
                rollout.shadow.take(replica, payload.get("totals", ()))
        elif payload.get("rollout") is None:
            self.totals.take(replica, payload.get("totals", ()))
            self.latencies.extend(max(0.0, seconds) for arm, seconds in payload.get("latencies", ()) if arm == 0)
        return sequence + 1

    # -- what the world should look like -------------------------------------------------------------------------

    def document(self) -> RoutingDocument | None:
        """The routing document of this state; its version rises when anything in it changes. None without a
        champion."""
        if self.champion is None:
            return None
        document = projection.routing(self, self.champion)
        shown = document.to_json()
        if shown != self._shown:
            self._version, self._shown = self._version + 1, shown
        return replace(document, version=self._version)

    def applications(self) -> dict[str, ModelRef]:
        """Isolated candidates that should run, by name of their application."""
        return projection.applications(self.rollout)

    def alias_owed(self) -> str | None:
        """The version that the registry's alias has to be moved to, None if it is where the ledger says."""
        if self.champion is None or self.champion.version == self.alias:
            return None
        rollout = self.rollout
        switching = rollout is not None and rollout.phase == "baking" and rollout.promoted_at is None
        return None if switching else self.champion.version

    # -- stored --------------------------------------------------------------------------------------------------

    def to_json(self, at: float) -> bytes:
        """The whole state. `at` is the time of writing, by which others see that this controller lives."""
        rollout = self.rollout
        data = {
            "at": at,
            "endpoint": self.endpoint,
            "task": self.task,
            "chain": [self.n, self.head, self.term],
            "champion": None if self.champion is None else vars(self.champion),
            "warm": None if self.warm is None else vars(self.warm),
            "alias": self.alias,
            "rollout": None if rollout is None else rollout.to_dict(),
            "last": self.last,
            "ended": self.ended,
            "attempts": self.attempts,
            "rolled_back": self.rolled_back,
            "tasks": {name: vars(task) for name, task in self.tasks.items()},
            "sequences": self.sequences,
            "lost_reports": self.lost_reports,
            "latencies": list(self.latencies),
            "totals": self.totals.to_dict(),
            "document": [self._version, self._shown],
        }
        return json.dumps(data, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Conductor:
        raw: dict[str, Any] = json.loads(data)
        made = cls(raw["endpoint"], raw["task"])
        made.n, made.head, made.term = raw["chain"]
        made.champion = None if raw["champion"] is None else ModelRef(**raw["champion"])
        made.warm = None if raw["warm"] is None else ModelRef(**raw["warm"])
        made.rollout = None if raw["rollout"] is None else Rollout.from_dict(raw["rollout"])
        made.tasks = {name: Task(**row) for name, row in raw["tasks"].items()}
        made.latencies.extend(raw["latencies"])
        made.totals = Totals.from_dict(raw["totals"])
        made._version, made._shown = raw["document"]
        made.ended = raw.get("ended", {})  # none in states from before it was counted
        for name in ("alias", "last", "attempts", "rolled_back", "sequences", "lost_reports"):
            setattr(made, name, raw[name])
        return made
