"""raymlops as a user runs it: `raymlops serve`, and rollouts by `raymlops rollout`, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.serving_lib.checking import check, wait_ready
from benchmarks.serving_lib.contenders import free_port
from benchmarks.serving_lib.models import CONFIG, NAME, Models
from benchmarks.serving_lib.process import READY_SECONDS, Server
from benchmarks.serving_lib.protocols import Protocol, rows

PROGRAM = (sys.executable, "-m", "raymlops")
POLICY = (
    "rollout.warmup_seconds=0",
    "rollout.cooldown_seconds=0",
    "rollout.bake_seconds=0",
    "rollout.approve_promotion=true",
    # The candidate is as good as the champion. Wide bounds keep chance from ending a rollout that is being measured.
    "rollout.comparisons={errors: {kind: rate}, latency: {kind: latency, tolerance: 1000, margin: 2000}}",
)
"""A rollout stays where it was put; everything is still counted, compared and decided upon."""


@dataclass
class Endpoint:
    server: Server
    port: int
    models: Models
    protocol: Protocol

    def rollout(self, *arguments: str) -> str:
        """`raymlops rollout …`; returns what it printed. Raises RuntimeError with what it said when it fails."""
        command = [*PROGRAM, "rollout", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"raymlops rollout {' '.join(arguments)}: {done.stderr[-500:]}{done.stdout[-500:]}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rollout("status", NAME, "--json"))
        return found

    def settle(self, seconds: float = 60.0) -> None:
        """Until the controller has read the registry and no rollout runs; ends what another endpoint left behind."""
        end = time.monotonic() + seconds
        while (found := self.status()).get("alias", {}).get("seen") is None:
            if time.monotonic() > end:
                raise RuntimeError(f"the controller has not read the registry after {seconds:g} s: {found}")
            time.sleep(0.2)
        if found["rollout"] is not None:
            self.abort()

    def start(self, mode: str = "canary") -> None:
        """A rollout of the second version, whatever became of it before."""
        self.rollout("start", NAME, "--version", self.models.candidate, "--mode", mode, "--force")

    def abort(self) -> None:
        """End the rollout, and wait until nothing of it is left."""
        self.rollout("abort", NAME)
        end = time.monotonic() + 60.0
        while self.status()["rollout"] is not None:
            if time.monotonic() > end:
                raise RuntimeError("the rollout did not end within 60 s of its abort")
            time.sleep(0.2)

    def wait_share(self, low: float, high: float, seconds: float = 60.0) -> None:
        """Until the share of answers by a candidate lies between `low` and `high`. Raises RuntimeError."""
        end, share = time.monotonic() + seconds, -1.0
        while time.monotonic() < end:
            found = check(self.port, self.protocol, self.models.rows, self.models.expected, rounds=4)
            share = sum(n for name, n in found.variants.items() if name.startswith("candidate")) / found.asked
            if low <= share <= high:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{share:.1%} of answers come from a candidate after {seconds:g} s, expected {low}–{high}")

    def wait_mirrored(self, seconds: float = 60.0) -> None:
        """Until a candidate in shadow has got copies of requests. Raises RuntimeError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            check(self.port, self.protocol, self.models.rows, self.models.expected)
            rollout = self.status()["rollout"]
            if rollout is not None and any(arm.get("requests") for arm in rollout["arms"][1:]):
                return
        raise RuntimeError(f"no copies of requests reached the candidate within {seconds:g} s")


@contextmanager
def serving(
    models: Models,
    settings: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Endpoint]:
    """An endpoint that answers; `environment`: more variables for it. Raises RuntimeError with the end of its output
    when it does not start."""
    port, protocol = free_port(), rows(NAME)
    given = (f"name={NAME}", f"storage={models.storage}", f"serving.port={port}", *POLICY, *settings)
    options = [part for setting in given for part in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="raymlops-serving-") as scratch:
        log = Path(scratch) / "output.log"
        with Server([*program, "serve", str(CONFIG), *options], environment or {}, ROOT, log) as server:
            try:
                wait_ready(
                    lambda: check(port, protocol, models.rows[:1], models.expected[:1]),
                    lambda: server.alive,
                    READY_SECONDS,
                )
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{server.tail()}") from error
            endpoint = Endpoint(server, port, models, protocol)
            endpoint.settle()
            yield endpoint
