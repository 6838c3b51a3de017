"""An endpoint under load, its registry, and what a test may do to both. Only processes below the test's own die."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from conftest import SERVING, free_port
from faults_load import Load
from faults_wait import eventually
from serving_models import NAME, endpoint_config, flag_path, json_rows, register

from raymlops.chain import Entry
from raymlops.registry.backend import Tracking, tracking
from raymlops.rollout.ledger import Ledger, verify
from raymlops.rollout.promotion import seen_alias
from raymlops.serving.args import EndpointArgs
from raymlops.store import Store

HOST = Path(__file__).with_name("faults_host.py")
SERVING_FAULTS: dict[str, Any] = {
    **SERVING,
    "replicas": 2,
    "limits": {"timeout_s": 6.0},
    "candidate": {"cpus": 0.1, "budget_ms": 1500, "breaker_failures": 5, "breaker_seconds": 1.0},
}
ROLLOUT_FAULTS: dict[str, Any] = {
    "steps": [{"share": 0.3}, {"share": 0.5}],
    "warmup_seconds": 0.5,
    "cooldown_seconds": 0,
    "bake_seconds": 1.0,
    "comparisons": {
        "errors": {"kind": "rate", "event": "errors", "excess": 0.25, "strata": 1},
        "timeouts": {"kind": "rate", "event": "timeouts", "excess": 0.25, "strata": 1},
    },
}
NOISE = ("term", "alias", "step", "paused", "resumed")
"""Entries that do not belong to the verdict: how often they come depends on the load."""


GROUP = '"$@" & cat; kill -KILL 0'
"""For a shell: a command whose processes end with the standard input, whatever became of the test."""


class Registry:
    """MLflow's server in a process of its own, which can die, hang and come back."""

    def __init__(self, root: Path, database: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._root, self._database = root, database
        self.start()

    def start(self) -> None:
        """Returns at once; see `wait`."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database, "--workers", "1"]
        command += ["--default-artifact-root", str(self._root / "served"), "--no-serve-artifacts"]
        with (self._root / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", GROUP, "sh", *command, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=self._root,
                stdin=subprocess.PIPE,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its processes are a group, which is signalled as one
            )

    def wait(self) -> None:
        eventually("MLflow answers", self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait(30)


class World:
    """Everything of one test module. Versions are registered while the endpoint starts."""

    def __init__(self, root: Path, behaviours: tuple[str, ...]) -> None:
        self.root, self.name = root, NAME
        self.store = Store(str(root / "storage"))
        self.direct: Tracking = tracking(None, self.store)
        """The registry's database itself, whatever its server does."""
        self.versions = {"first": register(root)}
        self.port = free_port()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            self.registry = Registry(root, self.direct.uri)
            stack.callback(self.registry.kill)
            self._open(behaviours, stack)
            self.close = stack.pop_all().close

    def _open(self, behaviours: tuple[str, ...], stack: contextlib.ExitStack) -> None:
        root = self.root
        config = endpoint_config(
            root,
            serving={**SERVING_FAULTS, "port": self.port},
            rollout=ROLLOUT_FAULTS,
            tracking={"uri": self.registry.uri},
        )
        (root / "args.json").write_text(EndpointArgs.of(config).model_dump_json(by_alias=True))
        self.registry.wait()
        self._host = subprocess.Popen(
            [sys.executable, str(HOST), str(root / "args.json"), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(root / "host.log").open("w"),
            text=True,
        )
        stack.callback(self._end)
        for number, behaviour in enumerate(behaviours, start=1):
            self.versions[behaviour] = register(root, behaviour, seed=number, bias=50.0 * number)
        self._read()
        self.load = Load(self.port, self.name, *self._rows())
        stack.callback(self.load.stop)
        self.load.more(20)

    def _rows(self) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
        """Rows, and what each registered version answers to them, from the registry and not from the endpoint."""
        import pandas as pd

        from raymlops.registry.versions import find_version

        rows = json_rows(12)
        frame = pd.DataFrame(rows).assign(leaves=lambda f: pd.to_datetime(f["leaves"]))
        found = {v: find_version(self.direct, f"{NAME}/{v}").load() for v in self.versions.values()}
        return rows, {v: package.predict(frame)["prediction"].tolist() for v, package in found.items()}

    def _end(self) -> None:
        assert self._host.stdin is not None
        with contextlib.suppress(OSError):
            self._host.stdin.close()
        self._host.wait(60)

    # -- orders --------------------------------------------------------------------------------------------------

    def _read(self) -> Any:
        assert self._host.stdout is not None
        line = self._host.stdout.readline()
        assert line, (self.root / "host.log").read_text()[-3000:]
        answer = json.loads(line)
        assert "ok" in answer, answer
        return answer["ok"]

    def do(self, order: str, **arguments: Any) -> Any:
        assert self._host.stdin is not None
        with self._lock:
            self._host.stdin.write(json.dumps({"do": order, "with": arguments}) + "\n")
            self._host.stdin.flush()
            return self._read()

    def both(self, *orders: list[Any]) -> list[dict[str, Any]]:
        """Several orders at the same time."""
        return list(self.do("order", orders=list(orders)))

    def order(self, method: str, *arguments: Any) -> Any:
        (answer,) = self.both([method, *arguments])
        assert "ok" in answer, answer
        return answer["ok"]

    def start(self, version: str) -> None:
        spec = {"versions": [version], "mode": "canary", "force": True, "by": "test"}
        self.order("start", spec)

    def status(self) -> dict[str, Any]:
        return dict(self.do("order", orders=[["status"]], patient=True)[0]["ok"])

    def label(self, prediction_id: str) -> tuple[int, str | None]:
        """Status and Retry-After of feedback on a prediction."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"labels": [{"prediction_id": prediction_id, "label": 12.5}]})
        connection.request("POST", f"/v2/models/{self.name}/feedback", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        connection.close()
        return reply.status, reply.getheader("retry-after")

    @property
    def champion(self) -> str:
        found = eventually("the controller has recovered", lambda: self.status().get("champion"))
        return str(found["version"])

    def follow(self) -> None:
        """Waits until both replicas have the present document."""

        def followed() -> bool:
            return [replica["follows"] for replica in self.status().get("replicas", [])] == [True, True]

        eventually("both replicas follow", followed)

    def challenger(self) -> str:
        """A good version that is not the champion."""
        return next(self.versions[n] for n in ("first", "good") if self.versions[n] != self.champion)

    # -- the ledger ----------------------------------------------------------------------------------------------

    def entries(self, after: int = 0) -> list[Entry]:
        return Ledger(self.store, self.name).entries(after)

    def last_entry(self) -> int:
        return Ledger(self.store, self.name).numbers()[-1]

    def kinds(self, after: int) -> list[str]:
        return [entry.kind for entry in self.entries(after)]

    def reaches(self, kind: str, after: int) -> None:
        eventually(f"{kind} after {self.kinds(after)}", lambda: kind in self.kinds(after))

    def ends(self, after: int) -> dict[str, Any]:
        """Waits for the end of the rollout; returns what the ledger says about it."""

        def ended() -> bool:
            return bool({"rolled_back", "finished"} & set(self.kinds(after)))

        eventually(f"the rollout ends; {self.kinds(after)}", ended)
        return next(e.payload for e in reversed(self.entries(after)) if e.kind in ("rollback", "finished"))

    def agree(self, after: int, champion: str) -> None:
        """The ledger is whole and promoted at most once; it, the registry's alias and the traffic name one version."""
        assert verify(self.store, self.name)
        assert self.kinds(after).count("promoted") <= 1
        assert self.champion == champion
        eventually("the alias is where traffic goes", lambda: seen_alias(self.direct, self.name) == champion)
        self.follow()
        mark = self.load.mark()
        self.load.more(40)
        began = self.load.records[mark].ended
        answered = {r.version for r in self.load.since(mark) if r.began > began and r.status == 200}
        assert answered == {champion}, answered

    # -- processes -----------------------------------------------------------------------------------------------

    def pids(self, title: str) -> list[int]:
        """Processes of this endpoint's Ray by the beginning of their title."""
        found = []
        for process in psutil.Process(self._host.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if (process.cmdline() or [""])[0].startswith(title):
                    found.append(process.pid)
        return found

    def ingress(self) -> list[int]:
        return self.pids(f"ray::ServeReplica:{self.name}:")

    def candidate(self) -> int:
        (pid,) = self.pids(f"ray::ServeReplica:{self.name}-candidate-")
        return pid

    def last_term(self) -> int:
        return self.entries()[-1].term

    def controller(self) -> int:
        """By the last `term` entry, whose payload names its process."""
        terms = [entry for entry in self.entries() if entry.kind == "term"]
        return int(terms[-1].payload["controller"].split(":")[1])

    def kill(self, pid: int) -> None:
        assert self._host.pid in {parent.pid for parent in psutil.Process(pid).parents()}, "not of this test"
        os.kill(pid, signal.SIGKILL)

    # -- faults that end -----------------------------------------------------------------------------------------

    @contextmanager
    def misbehaving(self, behaviour: str) -> Iterator[None]:
        """The moody version does."""
        flag = flag_path(self.root, "moody")
        flag.write_text(behaviour)
        try:
            yield
        finally:
            flag.unlink(missing_ok=True)

    @contextmanager
    def no_room(self, pids: Callable[[], list[int]]) -> Iterator[None]:
        """Files of these processes cannot grow beyond a few bytes, as if the quota were used up: writing fails with an
        OSError after some bytes, like on a full disk."""
        limited = [psutil.Process(pid) for pid in pids()]
        before = [process.rlimit(psutil.RLIMIT_FSIZE) for process in limited]
        for process, (_, hard) in zip(limited, before, strict=True):
            process.rlimit(psutil.RLIMIT_FSIZE, (16, hard))
        try:
            yield
        finally:
            for process, limits in zip(limited, before, strict=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.rlimit(psutil.RLIMIT_FSIZE, limits)
