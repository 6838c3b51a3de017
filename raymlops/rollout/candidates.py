"""Serve applications of isolated candidates: made, watched, probed and removed, without ever holding up the endpoint.

What should run is told by `want`; `reconcile` compares it with what Serve says, in a thread, because Serve's calls
block for seconds when its controller is busy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raymlops.serving.document import ModelRef

if TYPE_CHECKING:
    from raymlops.serving.args import EndpointArgs

log = logging.getLogger(__name__)
POLL_SECONDS = 0.25
PROBE_SECONDS, PROBES = 30.0, 2
"""A candidate that does not answer in time is probed once more: Serve's controller may have gone away just then, and
without it nobody knows where the candidate runs."""
CRASHES, CRASH_SECONDS = 3, 300.0
"""So many deaths of a candidate's replicas within that time are a crash loop."""
DOWN_SECONDS = 60.0
"""A candidate that has no running replica for so long has failed, whatever Serve still tries."""


@dataclass
class _App:
    state: str = "starting"
    reason: str = ""
    alive: int = 0
    down_since: float | None = None
    deaths: list[float] = field(default_factory=list)
    probing: bool = False
    probes: int = 0
    """That were not answered."""

    def see(self, status: str, alive: int, message: str, now: float) -> None:
        """Takes up what Serve says of it: the application's status, its living replicas and what is wrong."""
        if alive < self.alive:
            self.deaths = [at for at in self.deaths if at > now - CRASH_SECONDS] + [now] * (self.alive - alive)
        self.alive = alive
        if alive:
            self.down_since = None
        elif self.down_since is None:
            self.down_since = now
        if status == "DEPLOY_FAILED":
            self.state, self.reason = "failed", message or "its deployment failed"
        elif len(self.deaths) >= CRASHES:
            self.state, self.reason = "failed", f"crash loop: {len(self.deaths)} deaths within {CRASH_SECONDS:g} s"
        elif self.down_since is not None and self.state == "ready" and now > self.down_since + DOWN_SECONDS:
            self.state, self.reason = "failed", f"no replica ran for {DOWN_SECONDS:g} s"

    def probed(self, error: BaseException | None) -> None:
        """Takes up what became of a probe. What the candidate itself says is believed at once."""
        from ray.exceptions import RayTaskError

        if error is None:
            self.state = "ready"
            return
        self.probes += 1
        if isinstance(error, RayTaskError) or self.probes >= PROBES:
            self.state, self.reason = "failed", f"the probe failed: {_said(error)}"


class Deployer:
    """The candidate applications of one endpoint."""

    def __init__(self, args: EndpointArgs) -> None:
        self._args = args
        self._prefix = f"{args.name}-candidate-"
        self._wanted: dict[str, ModelRef] | None = None
        """None until it is told, which takes a controller that starts anew a while: nothing is removed before."""
        self._apps: dict[str, _App] = {}
        self._deleting: set[str] = set()
        self._clean = False
        """Whether it is known that nothing runs that should not."""

    def want(self, applications: Mapping[str, ModelRef]) -> None:
        if dict(applications) != self._wanted:
            self._wanted, self._clean = dict(applications), False
            self._apps = {name: app for name, app in self._apps.items() if name in applications}

    def status(self) -> dict[str, tuple[str, str]]:
        """Application → `starting`, `ready` or `failed`, and why."""
        return {name: (app.state, app.reason) for name, app in self._apps.items()}

    async def run(self) -> None:
        """Reconciles for ever. Failures are logged and tried again."""
        while True:
            if self._wanted or not self._clean:
                try:
                    await self.reconcile()
                except Exception as error:
                    log.warning("candidates of %s: %s: %s", self._args.name, type(error).__name__, error)
                    await asyncio.sleep(1.0)
            await asyncio.sleep(POLL_SECONDS)

    async def reconcile(self) -> None:
        """One step towards what is wanted; cut short when that changes meanwhile."""
        found = await asyncio.to_thread(_applications, self._prefix)
        wanted = self._wanted
        if wanted is None:
            return
        extra = set(found) - set(wanted)
        self._deleting &= extra
        for name in extra - self._deleting:
            log.info("removing candidate application %s", name)
            self._deleting.add(name)
            await asyncio.to_thread(_delete, name)
            if self._wanted is not wanted:
                return
        missing = {name: model for name, model in wanted.items() if name not in found}
        for name in missing:
            self._apps[name] = _App()
        if missing:
            await asyncio.to_thread(_deploy, self._args, list(missing.values()))
            if self._wanted is not wanted:
                return
        for name in set(wanted) & set(found):
            app = self._apps.setdefault(name, _App())
            app.see(*found[name], time.monotonic())
            if found[name][0] == "RUNNING" and app.state == "starting" and not app.probing:
                app.probing = True
                asyncio.get_running_loop().create_task(self._probe(name, app))
        self._clean = not extra

    async def _probe(self, name: str, app: _App) -> None:
        """Nobody gets traffic before it has answered the recorded rows as the registered version does."""
        try:
            handle = await asyncio.to_thread(_handle, name)
        except Exception as error:  # Serve's controller went away, and no word about the candidate
            log.warning("cannot probe %s: %s", name, error)
        else:
            try:
                await asyncio.wait_for(handle.probe.remote(), PROBE_SECONDS)
            except Exception as error:
                app.probed(error)
            else:
                app.probed(None)
        finally:
            app.probing = False


def living(states: Mapping[str, int]) -> int:
    """Replicas that live, by Serve's count of each state. Serve's controller, when it was restarted itself, calls all
    of them recovering until it has found them again."""
    return states.get("RUNNING", 0) + states.get("RECOVERING", 0)


def _said(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip()}" if lines else type(cause).__name__


def _applications(prefix: str) -> dict[str, tuple[str, int, str]]:
    """Application → status, living replicas, last line of what Serve says about it."""
    from ray import serve

    found = {}
    for name, app in serve.status().applications.items():
        if not name.startswith(prefix):
            continue
        alive = sum(living(d.replica_states) for d in app.deployments.values())
        messages = [app.message, *(d.message for d in app.deployments.values())]
        found[name] = (str(getattr(app.status, "value", app.status)), alive, _last_line(messages))
    return found


def _last_line(messages: list[str]) -> str:
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _deploy(args: EndpointArgs, models: list[ModelRef]) -> None:
    from ray import serve

    from raymlops.serving.app import candidate_target

    targets = [candidate_target(args, model) for model in models]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _delete(name: str) -> None:
    from ray import serve

    serve.delete(name, _blocking=False)


def _handle(name: str) -> Any:
    from ray import serve

    return serve.get_app_handle(name)
