"""The loop around a model in production: look, decide, retrain, deliver, look again.

`Loop.round` does one turn. Every effect is preceded by an entry of the ledger that says what is intended and followed
by one that says what came of it, and every effect recognises that it has happened already. So the process may die
anywhere: the next round, of this or another process, goes on where the ledger ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raymlops.chain import Deposed
from raymlops.config.tree import Config
from raymlops.data.checks import ContractViolated
from raymlops.errors import ConfigError, DataError, IntegrityError, RaymlopsError
from raymlops.lock import Held
from raymlops.monitoring.signals import Observation
from raymlops.owner import alive, beating, same, this_process
from raymlops.retraining.journal import Journal, Outcome, Retraining, State
from raymlops.retraining.policy_types import Action, Decision, Facts, Order
from raymlops.retraining.recipe import Recipe
from raymlops.retraining.triggers import decide
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.retraining.watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extent:
    """How much there is to train on; None where nobody can say without reading it all."""

    rows: int | None
    partitions: int | None


@dataclass(frozen=True)
class Trained:
    """A job that ended: `version` is None when the gate refused the model."""

    run_id: str
    version: str | None
    reasons: list[str]
    metrics: dict[str, float | None]
    snapshot: str | None


@dataclass(frozen=True)
class Delivery:
    """What became of a version; `outcome` is None while that is open."""

    outcome: Outcome | None
    reason: str


class Effects(Protocol):
    """The world outside, as far as the ledger orders it. Raises RaymlopsError for what cannot be done now."""

    def look(self, now: datetime) -> Observation:
        """Join labels that came, and judge the champion."""

    def orders(self) -> tuple[Order, ...]:
        """Orders that were placed, oldest first."""

    def answered(self, order: str) -> None:
        """An order had its retraining."""

    def extent(self) -> Extent:
        """How much there is to train on."""

    def short(self, extent: Extent) -> str | None:
        """Why that is too little to train on yet, if it is."""

    def recipe(self, since: str | None, seen: Observation, now: datetime) -> Recipe:
        """Which rows a retraining would read; `since` is the ISO date of the last change that is known."""

    def train(self, retraining: Retraining, now: datetime, fence: Callable[[], None]) -> Trained:
        """Run the job, or find that it ran already. Calls `fence` before it registers anything."""

    def intent(self, retraining: Retraining) -> dict[str, Any]:
        """How the version is to be delivered, with what is needed to recognise that it was."""

    def deliver(self, retraining: Retraining, now: datetime) -> Delivery:
        """Carry the intent out, or find how far it is. Asked again until there is an outcome."""

    def tell(self, event: dict[str, Any]) -> None:
        """Let people know; a death in this instant means that they are not told."""


@dataclass(frozen=True)
class Round:
    """One turn of the loop."""

    at: datetime
    observation: Observation
    decision: Decision
    retraining: Retraining | None
    """The one that is under way, or ended in this round."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "observation": self.observation.to_dict(),
            "decision": self.decision.to_dict(),
            "retraining": None if self.retraining is None else self.retraining.to_dict(),
        }


class Loop:
    """The loop of one model. Rounds of several processes may overlap; the ledger keeps them in order."""

    def __init__(
        self,
        config: Config,
        base: Path,
        store: Store | None = None,
        *,
        effects: Effects | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`base` is the configuration file's directory. Raises ConfigError when `retraining:` cannot be carried out."""
        self.config, self.policy = config, config.retraining
        self.store = store or Store.at(config.storage)
        if effects is None:
            from raymlops.retraining.effects import Production

            effects = Production(config, base, self.store, watch)
        self.effects = effects
        self.journal = Journal(self.store, config.name)
        self.me = this_process()
        self.waiting: str | None = None
        """What a retraining that is under way waits for."""

    def round(self, now: datetime) -> Round:
        """Look, decide, and carry out what can be carried out at `now`.

        Raises RaymlopsError when the model cannot be looked at, or the ledger not be written; it may be called again.
        """
        at = now.timestamp()
        state = self.journal.read()
        if state.opened is None:
            state = self.journal.append("opened", vars(self.effects.extent()), at)
        seen = self.effects.look(now)
        current = state.open
        if current is not None:
            self._carry_on(current, now)
        decision = decide(self.policy, state.past(), seen, self._facts(state), at)
        if decision.action is Action.RETRAIN:
            current = self._begin(decision, seen, now)
            self._carry_on(current, now)
        else:
            self._note(decision, at)
        self._clear_orders(state)
        return Round(now, seen, decision, current)

    def _facts(self, state: State) -> Facts:
        busy = None if state.open is None else f"{state.open.id} is {state.open.phase}: {self.waiting or 'goes on'}"
        now = self.effects.extent()
        rows, partitions = (_more(found, state.counted.get(key)) for key, found in vars(now).items())
        return Facts(busy, self.effects.orders(), rows, partitions, self.effects.short(now))

    def _note(self, decision: Decision, at: float) -> None:
        last = self.journal.state.decision
        if last is not None and decision.key == _key(last):
            self.journal.repeat(at)
            return
        self.journal.append("decision", {**decision.to_dict(), "before": self.journal.repeated()}, at)

    def _begin(self, decision: Decision, seen: Observation, now: datetime) -> Retraining:
        known = [r.began["decision"]["since"] for r in self.journal.state.retrainings]
        changes = [since for since in (*known, decision.since) if since is not None]
        payload = {
            "decision": decision.to_dict(),
            "champion": seen.version,
            "recipe": self.effects.recipe(max(changes, default=None), seen, now).to_dict(),
            **vars(self.effects.extent()),
            "by": self.me,
            "before": self.journal.repeated(),
        }
        state = self.journal.append("began", payload, now.timestamp(), takes_over=True)
        assert state.open is not None
        return state.open

    def _carry_on(self, current: Retraining, now: datetime) -> None:
        """As far as it goes without waiting. Whatever is done here is done by one process at a time."""
        self.waiting = None
        if not same(current.owner, self.me):
            if alive(self.store, self.journal.chain.root, current.owner):
                self.waiting = f"process {current.owner['pid']} on {current.owner['host']} carries it out"
                return
            self.journal.append("resumed", {"by": self.me}, now.timestamp(), takes_over=True)
        with beating(self.store, self.journal.chain.root):
            if current.trained is None:
                self._train(current, now)
            if current.trained is not None and current.ended is None:
                self._deliver(current, now)

    def _train(self, current: Retraining, now: datetime) -> None:
        try:
            trained = self.effects.train(current, now, self._fence)
        except Deposed:
            raise
        except Held as error:  # a process that died on another machine a moment ago, as far as is known: no attempt
            self.waiting = str(error)
        except ContractViolated as error:
            self._end("blocked", str(error), now)
        except (ConfigError, DataError, IntegrityError) as error:  # the same would come of it again
            self._end("failed", str(error), now)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            log.warning("%s: attempt %d failed: %s", current.id, len(current.failures) + 1, said)
            self.journal.append("failed", {"error": said}, now.timestamp())
            self.waiting = f"attempt {len(current.failures)} failed: {said}"
            if len(current.failures) >= self.policy.attempts:
                self._end("failed", f"{len(current.failures)} attempts failed, the last with {said}", now)
        else:
            self.journal.append("trained", vars(trained), now.timestamp())
            if trained.version is None:
                self._end("refused", "; ".join(trained.reasons), now)

    def _deliver(self, current: Retraining, now: datetime) -> None:
        if current.delivering is None:
            self.journal.append("delivering", self.effects.intent(current), now.timestamp())
        assert current.delivering_at is not None
        try:
            found = self.effects.deliver(current, now)
        except IntegrityError:
            raise
        except RaymlopsError as error:  # asked again, but not for ever
            found = Delivery(None, str(error))
        if found.outcome is not None:
            self._end(found.outcome, found.reason, now)
        elif now.timestamp() > current.delivering_at + self.config.rollout.deadline_seconds:
            self._end("expired", f"no decision before rollout.deadline_seconds: {found.reason}", now)
        else:
            self.waiting = found.reason

    def _end(self, outcome: Outcome, reason: str, now: datetime) -> None:
        current = self.journal.state.open
        assert current is not None
        self.journal.append("ended", {"outcome": outcome, "reason": reason}, now.timestamp())
        about = {"endpoint": self.config.name, "entry": self.journal.state.n, "retraining": current.id}
        incident = current.began["decision"]["incident"]
        self.effects.tell({"event": "retraining", **about, "incident": incident, "outcome": outcome, "reason": reason})

    def _fence(self) -> None:
        """Raises Deposed when another process wrote to the ledger since this one did."""
        state = self.journal.state
        if self.journal.chain.taken(state.n + 1):
            raise Deposed(f"{self.config.name}: another loop took the retraining over")

    def _clear_orders(self, state: State) -> None:
        handled = state.past().handled
        for order in self.effects.orders():
            if f"order-{order.id}" in handled:
                self.effects.answered(order.id)


def _more(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else max(0, now - before)


def _key(decision: dict[str, Any]) -> tuple[Any, ...]:
    return decision["action"], decision["code"], decision["incident"], tuple(decision["open"])
