"""Rollouts from Python: `RolloutClient("flights").start(["3"])`. Talks to the endpoint's controller over Ray."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from raymlops.errors import RaymlopsError

CONNECT_SECONDS = 5.0
RESTART_SECONDS = 20.0
ANSWER_SECONDS = 120.0
"""For orders, which may have to fetch a model from the registry first."""


class RolloutClient:
    """The controller of one endpoint. Raises RaymlopsError when it cannot be reached, Refused for what it refuses."""

    def __init__(self, endpoint: str, address: str | None = None, by: str | None = None) -> None:
        """`address` of the cluster; RAY_ADDRESS when absent, else what runs on this machine. `by` is written
        to the ledger with every order."""
        self.endpoint = endpoint
        self.by = by or whoami()
        _connect(endpoint, address)
        from raymlops.rollout.controller import find_controller

        found = find_controller(endpoint)
        if found is None:
            raise RaymlopsError(
                f"no controller of an endpoint {endpoint!r} runs on this cluster; `raymlops serve` starts one"
            )
        self._controller = found

    def start(self, versions: Sequence[str], *, mode: str = "canary", force: bool = False) -> dict[str, Any]:
        """Give versions traffic. `mode`: `canary` ramps up and promotes by itself, `ab` compares at the last step's
        share until somebody promotes, `shadow` sends copies only."""
        spec = {"versions": [str(v) for v in versions], "mode": mode, "force": force, "by": self.by}
        return dict(self._ask("start", spec))

    def status(self) -> dict[str, Any]:
        return dict(self._ask("status", again=True))

    def pause(self) -> dict[str, Any]:
        """Nothing is compared and no step is taken until `resume`; traffic stays as it is."""
        return dict(self._ask("pause", self.by))

    def resume(self) -> dict[str, Any]:
        """Ends a pause, or approves the step or promotion that waits for it."""
        return dict(self._ask("resume", self.by))

    def promote(self, candidate: int | None = None) -> dict[str, Any]:
        """Promote now, whatever the evidence says."""
        return dict(self._ask("promote", self.by, candidate))

    def abort(self, reason: str = "by order") -> dict[str, Any]:
        """Take the candidates back; while a promoted one bakes, bring the old champion back."""
        return dict(self._ask("abort", reason, self.by))

    def history(self) -> list[dict[str, Any]]:
        """The entries of the ledger, checked."""
        return list(self._ask("history", again=True))

    def _ask(self, method: str, *arguments: Any, again: bool = False) -> Any:
        """`again`: a controller that restarts in this moment is asked once more. Not for orders, of which nobody knows
        then whether they were carried out."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        deadline = time.monotonic() + (RESTART_SECONDS if again else 0.0)
        while True:
            try:
                return ray.get(getattr(self._controller, method).remote(*arguments), timeout=ANSWER_SECONDS)
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, RaymlopsError):
                    raise cause from None
                raise RaymlopsError(f"the controller of {self.endpoint!r} failed: {cause}") from error
            except (RayActorError, GetTimeoutError) as error:
                if time.monotonic() >= deadline:
                    why = str(error).splitlines()[0]
                    raise RaymlopsError(
                        f"the controller of {self.endpoint!r} does not answer ({why}); it restarts by itself, and "
                        "`raymlops rollout status` shows whether an order reached it"
                    ) from error
                time.sleep(0.2)


def whoami() -> str:
    """The user and the machine, for ledgers."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a user without a name, as in many containers
        return f"uid {os.getuid()}@{socket.gethostname()}"


def _connect(endpoint: str, address: str | None) -> None:
    from raymlops.cluster import prepare_environment
    from raymlops.serving import local

    prepare_environment()
    chosen = address or os.environ.get("RAY_ADDRESS")
    if chosen is None and (here := local.find(endpoint)) is not None:
        os.environ.update(here.environment())  # before Ray is imported: its Ray asks for a token
        chosen = here.address
    chosen = chosen or "auto"
    import ray

    if ray.is_initialized():
        return
    try:
        _check_reachable(chosen)
        ray.init(address=chosen, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError and TimeoutError are OSErrors
        where = "no Ray runs on this machine" if chosen == "auto" else f"cannot reach Ray at {chosen}"
        said = str(error).splitlines() or [type(error).__name__]
        raise RaymlopsError(
            f"{where}; start the endpoint with `raymlops serve`, or name its cluster by --address or RAY_ADDRESS "
            f"({said[0]})"
        ) from error


def _check_reachable(address: str) -> None:
    """Ray itself tries for many minutes before it says that nobody listens."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
