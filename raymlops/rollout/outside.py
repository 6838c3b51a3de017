"""The controller's work outside of the endpoint: alias, tags, notifications, the MLflow run. Never in its way.

At most one attempt of a thing at a time, in threads; what fails is tried again, ever more rarely.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from raymlops.config.rollout import Notify
from raymlops.registry.backend import Tracking
from raymlops.rollout import notify, promotion
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.tracking import RolloutRun, Row, row_of
from raymlops.rollout.trial import Rollout, Task

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_RETRY, LAST_RETRY = 1.0, 15.0
ROW_SECONDS, MAX_ROWS = 10.0, 500
ALIAS_SECONDS = 30.0
"""How often the registry is asked where the alias is."""
NOTIFY_ATTEMPTS = 5


@dataclass
class _Attempt:
    """When a thing may be tried again."""

    after: float = 0.0
    failures: int = 0
    running: bool = False


class Outside:
    """Call `settle` often; it starts what is due and returns at once."""

    def __init__(
        self,
        registry: Tracking,
        model: str,
        config: Notify,
        *,
        done: Callable[[str], None],
        alias_moved: Callable[[str, str | None, float], Awaitable[None]],
    ) -> None:
        self._registry, self._model, self._notify = registry, model, config
        self._done, self._alias_moved = done, alias_moved
        self._run = RolloutRun(registry, model)
        self._attempts: dict[str, _Attempt] = {}
        self._rows: deque[Row] = deque(maxlen=MAX_ROWS)
        self._rows_of = ""
        self._tags: dict[str, str] = {}
        self._row_at = 0.0
        self.alias: str | None = None
        """Version that the registry calls champion, when it was last asked."""
        self.errors: dict[str, str] = {}
        """What does not succeed at present, and why."""
        self._running: set[asyncio.Task[None]] = set()
        # One thread: MLflow does not stand being imported by several at once, nor sqlite being written by them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    async def with_registry(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run what talks to MLflow in the one thread that does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def settle(self, conductor: Conductor, now: float) -> None:
        if (version := conductor.alias_owed()) is not None:
            self._try("alias", now, self._move_alias, version, now)
        elif self._due("look", now):
            self._attempt("look").after = now + ALIAS_SECONDS
            self._try("look", now, self._look, forced=True)
        for name, task in list(conductor.tasks.items()):
            self._try(name, now, self._carry_out, name, task)
        self._collect(conductor, now)
        if self._rows:
            self._try("rows", now, self._log_rows)

    def _collect(self, conductor: Conductor, now: float) -> None:
        rollout = conductor.rollout
        if rollout is None or now < self._row_at + ROW_SECONDS:
            return
        if rollout.base_id != self._rows_of:
            self._rows.clear()
            self._rows_of, self._tags = rollout.base_id, _tags(rollout)
        row = row_of(conductor, now)
        if row is not None:
            self._row_at = now
            self._rows.append(row)

    # -- in threads ----------------------------------------------------------------------------------------------

    async def _move_alias(self, version: str, now: float) -> None:
        began = time.monotonic()
        found = await self.with_registry(promotion.move_alias, self._registry, self._model, version)
        self.alias = version
        await self._alias_moved(version, found, now + time.monotonic() - began)  # MLflow may have taken minutes

    async def _look(self) -> None:
        self.alias = await self.with_registry(promotion.seen_alias, self._registry, self._model)

    async def _carry_out(self, name: str, task: Task) -> None:
        payload: dict[str, Any] = task.payload
        if task.kind == "tag":
            arguments = payload["name"], payload["version"], payload["text"]
            await self.with_registry(promotion.tag_version, self._registry, *arguments)
        elif task.kind == "notify":
            failures = await asyncio.to_thread(notify.send, self._notify, payload)
            if failures and self._attempt(name).failures + 1 < NOTIFY_ATTEMPTS:
                raise RuntimeError("; ".join(failures))
            for failure in failures:
                log.warning("notification given up after %d attempts: %s", NOTIFY_ATTEMPTS, failure)
        else:
            rows = list(self._rows) if self._rows_of == payload["rollout"] else []
            tags = self._tags if self._rows_of == payload["rollout"] else {}
            await self.with_registry(self._run.log, payload["rollout"], tags, rows)
            await self.with_registry(self._run.end, payload["rollout"], tags, payload["end"])
            if rows:
                self._rows.clear()
        self._done(name)

    async def _log_rows(self) -> None:
        rows, rollout = list(self._rows), self._rows_of
        await self.with_registry(self._run.log, rollout, self._tags, rows)
        for row in rows:
            if self._rows and self._rows[0] is row:
                self._rows.popleft()

    # -- once at a time, and not too often -----------------------------------------------------------------------

    def _attempt(self, name: str) -> _Attempt:
        return self._attempts.setdefault(name, _Attempt())

    def _due(self, name: str, now: float) -> bool:
        attempt = self._attempt(name)
        return not attempt.running and now >= attempt.after

    def _try(
        self, name: str, now: float, work: Callable[..., Awaitable[None]], *arguments: Any, forced: bool = False
    ) -> None:
        if not forced and not self._due(name, now):
            return
        self._attempt(name).running = True
        task = asyncio.get_running_loop().create_task(self._once(name, now, work, arguments))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _once(self, name: str, now: float, work: Callable[..., Awaitable[None]], arguments: Any) -> None:
        attempt = self._attempt(name)
        try:
            await work(*arguments)
        except Exception as error:  # MLflow, a webhook, the network: whatever it is, it is tried again
            attempt.failures += 1
            attempt.after = now + min(LAST_RETRY, FIRST_RETRY * 2.0 ** (attempt.failures - 1))
            attempt.running = False
            self.errors[name] = str(error)
            log.warning("%s: %s (attempt %d)", name, error, attempt.failures)
        else:
            self.errors.pop(name, None)
            self._attempts[name] = _Attempt(after=attempt.after if name == "look" else 0.0)
            if ":" in name:
                del self._attempts[name]


def _tags(rollout: Rollout) -> dict[str, str]:
    versions = ", ".join(c.model.version for c in rollout.candidates)
    return {"raymlops.versions": versions, "raymlops.champion": rollout.control.version, "raymlops.mode": rollout.mode}
