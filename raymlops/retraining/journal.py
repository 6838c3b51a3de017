"""The ledger of a model's retrainings, and the state that its entries add up to. Pure apart from `Journal`'s I/O.

Kinds of entries below `retraining/NAME/ledger`:

    opened      a loop watched for the first time
    decision    what a look led to, when it says something else than the look before; identical ones are only counted,
                in `looks.json`, and the next entry says how many they were and when the last one was
    began       the intent to retrain: why, with which data, and the run's recipe. Everything after it names its effect
    resumed     another process goes on with it; its term is the next, so that the one before notices
    failed      an attempt that something other than the data or the gate stopped
    trained     the run ended: its verdict, and the version that it registered
    delivering  the intent to give that version the traffic or the alias
    ended       promoted, rolled_back, registered, refused, blocked, failed, superseded or expired, and why
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from raymlops.chain import GENESIS, Chain, Entry
from raymlops.errors import IntegrityError
from raymlops.registry.values import finite
from raymlops.retraining.policy_types import FollowUp, Past
from raymlops.store import Store

Outcome = Literal[
    "promoted", "rolled_back", "registered", "refused", "blocked", "failed", "superseded", "expired"
]  # fmt: skip
"""`registered`: left to people. `refused` by the gate, `blocked` by the data's contract, `failed` after all attempts,
`superseded` by somebody's other champion, `expired` before a rollout decided."""


@dataclass
class Retraining:
    """One retraining, as far as it got."""

    id: str
    """Also the tag `raymlops.retraining` of its runs."""
    at: float
    began: dict[str, Any]
    """The payload of its `began` entry: the decision, the champion, the recipe."""
    owner: dict[str, Any]
    """The process that carries it out."""
    failures: list[str] = field(default_factory=list)
    trained: dict[str, Any] | None = None
    delivering: dict[str, Any] | None = None
    delivering_at: float | None = None
    ended: dict[str, Any] | None = None
    ended_at: float | None = None

    @property
    def phase(self) -> str:
        if self.ended is not None:
            return str(self.ended["outcome"])
        if self.trained is None:
            return "training"
        return "trained" if self.delivering is None else "delivering"

    def to_dict(self) -> dict[str, Any]:
        decision = self.began["decision"]
        return {
            "id": self.id,
            "at": self.at,
            "phase": self.phase,
            **{name: decision[name] for name in ("cause", "incident", "covers", "since", "reason", "numbers")},
            "follow_up": decision.get("follow_up"),
            "champion": self.began["champion"],
            "recipe": self.began["recipe"],
            "failures": self.failures,
            "trained": self.trained,
            "ended": self.ended,
            "ended_at": self.ended_at,
        }


@dataclass
class State:
    """What the entries so far say."""

    n: int = 0
    term: int = 0
    head: str = GENESIS
    opened: dict[str, Any] | None = None
    opened_at: float = 0.0
    retrainings: list[Retraining] = field(default_factory=list)
    decision: dict[str, Any] | None = None
    """The last one that was written."""
    seen: dict[str, float] = field(default_factory=dict)
    """Incident → since when every look has seen it."""

    @property
    def open(self) -> Retraining | None:
        """The one that is under way."""
        last = self.retrainings[-1] if self.retrainings else None
        return last if last is not None and last.ended is None else None

    @property
    def counted(self) -> Mapping[str, Any]:
        """Rows and partitions that were there at the last retraining, or when the ledger was opened."""
        return self.retrainings[-1].began if self.retrainings else self.opened or {}

    def past(self) -> Past:
        ended = [r.ended_at for r in self.retrainings if r.ended_at is not None]
        plans = [r.began["decision"].get("follow_up") for r in self.retrainings]
        return Past(
            opened=self.opened_at,
            began=tuple(r.at for r in self.retrainings),
            ended=max(ended, default=None),
            handled=frozenset(name for r in self.retrainings for name in r.began["decision"]["covers"]),
            follow_up=next((FollowUp(**plan) for plan in reversed(plans) if plan is not None), None),
            seen=dict(self.seen),
        )

    def apply(self, entry: Entry) -> None:
        """Raises IntegrityError for an entry that cannot come here."""
        self.n, self.term, self.head = entry.n, entry.term, entry.sha256
        payload, current = entry.payload, self.open
        if entry.kind == "opened":
            self.opened, self.opened_at = payload, entry.at
        elif entry.kind == "decision":
            self._look(payload, entry.at)
        elif entry.kind == "began" and current is None:
            self._look(payload["decision"], entry.at)
            stamp = datetime.fromtimestamp(entry.at, UTC).strftime("%Y%m%d-%H%M%S")
            self.retrainings.append(Retraining(f"{stamp}-{entry.n}", entry.at, payload, payload["by"]))
        elif entry.kind in ("resumed", "failed", "trained", "delivering", "ended") and current is not None:
            _advance(current, entry)
        else:
            raise IntegrityError(f"entry {entry.n}: {entry.kind!r} cannot come here")

    def _look(self, decision: dict[str, Any], at: float) -> None:
        self.decision = decision
        self.seen = {incident: self.seen.get(incident, at) for incident in decision["open"]}


def _advance(current: Retraining, entry: Entry) -> None:
    if entry.kind == "resumed":
        current.owner = entry.payload["by"]
    elif entry.kind == "failed":
        current.failures.append(entry.payload["error"])
    elif entry.kind == "trained":
        current.trained = entry.payload
    elif entry.kind == "delivering":
        current.delivering, current.delivering_at = entry.payload, entry.at
    elif entry.kind == "ended":
        current.ended, current.ended_at = entry.payload, entry.at


class Journal:
    """The entries of one model in the store, and the state that they add up to."""

    def __init__(self, store: Store, name: str) -> None:
        self.chain = Chain(store, f"retraining/{name}")
        self.state = State()

    def read(self) -> State:
        """The state after every entry that exists. Raises StoreError and IntegrityError."""
        for entry in self.chain.entries(after=self.state.n):
            self.state.apply(entry)
        return self.state

    def append(self, kind: str, payload: dict[str, Any], now: float, *, takes_over: bool = False) -> State:
        """Write the next entry and follow it. Raises Deposed when another process wrote one first."""
        state = self.state
        plain: dict[str, Any] = finite(payload)
        entry = Entry(state.n + 1, state.term + takes_over, now, kind, plain, state.head)
        self.chain.append(entry)
        state.apply(entry)
        return state

    def repeated(self) -> dict[str, Any] | None:
        """How many looks since the last decision said the same, and when the last one was."""
        path = f"{self.chain.root}/looks.json"
        if not self.chain.store.exists(path):
            return None
        try:
            found: dict[str, Any] = json.loads(self.chain.store.read(path))
        except ValueError:  # half of it is what a power cut leaves; it only counts
            return None
        return found if found["n"] == self.state.n else None

    def repeat(self, now: float) -> None:
        """Count one more look that said the same as the last entry."""
        before = self.repeated()
        found = {"n": self.state.n, "looks": 1 + (before["looks"] if before else 0), "until": now}
        self.chain.store.write(f"{self.chain.root}/looks.json", json.dumps(found).encode(), sync=False)
