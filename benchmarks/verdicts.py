"""What becomes of candidates that are worse in one way, and of one that is not: the endpoint as a new user runs it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Table, Target, run
from benchmarks.serving_lib import models
from benchmarks.serving_lib.clients import Clients, Post
from benchmarks.serving_lib.endpoint import Endpoint, serving

THREADS, RATE, LABELS = 6, 300.0, 25
WHAT = """\
The champion of the flights configuration, one replica, isolated candidates, {rate:.0f} requests a second from
{threads} connections on the same cores; every answer's label comes back by feedback, {labels} at a time. Candidates are
registered versions that passed the gate. Three of them are worse in production: in one a derived feature raises for a
third of the departure times, in one it takes 20 ms, one was hardly trained. The fourth is the same configuration with
another seed. Half of the traffic goes to each, in a rollout of its own that nobody touches."""
FLAWED = '''\
"""A derived feature that is right in training, at the gate and when it is probed, and flawed once a file exists."""

import os
import time

from flights_features import minute_of_day


def raises(hhmm, flag):
    if os.path.exists(flag) and (hhmm % 3 == 0).any():
        raise ValueError("no such minute")
    return minute_of_day(hhmm)


def slow(hhmm, flag):
    if os.path.exists(flag):
        time.sleep(0.02)
    return minute_of_day(hhmm)
'''
POLICY = (
    "rollout.steps=[{share: 0.5}]",
    "rollout.approve_promotion=false",
    "rollout.comparisons={errors: {kind: rate, excess: 0.05, strata: 1}, latency: {kind: latency},"
    " mae: {kind: quality, loss_scale: 60, margin: 0.05, horizon_seconds: 5}}",
)


@dataclass(frozen=True)
class Case:
    name: str
    blame: str | None
    """The metric that has to end it; None: it has to be promoted."""
    settings: Sequence[str]
    flag: Path | None = None
    """What makes it flawed, once it exists."""


def cases(flags: Path) -> list[Case]:
    """In the order in which they are tried."""
    departure = "features.derived.departure_minute"
    flawed = {
        how: (f"{departure}.function=flawed:{how}", f"{departure}.params={{flag: {flags / how}}}")
        for how in ("raises", "slow")
    }
    weak = ("train.epochs=1", "train.learning_rate=0.00003", "search.space={}", "search.trials=1")
    return [
        Case("raises for a third", "errors", flawed["raises"], flags / "raises"),
        Case("takes 20 ms", "latency", flawed["slow"], flags / "slow"),
        Case("hardly trained", "mae", (*weak, "gate.thresholds={}", "gate.behaviours=[]")),
        Case("equally good", None, ("seed=9",)),
    ]


def measure(quick: bool) -> Report:
    """Verdict, blame and cost in requests of four rollouts."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymlops-verdicts-")))
        storage = scratch / "storage"
        given = models.prepare(storage)
        tried = cases(scratch / "flags")
        if quick:
            tried = tried[:1]
        versions = [_register(storage, scratch / "configs", case) for case in tried]
        (scratch / "flags").mkdir()
        with serving(given, POLICY) as endpoint, Users(endpoint, _labelled(given.rows[0])) as users:
            ended = [_rollout(endpoint, users, case, v) for case, v in zip(tried, versions, strict=True)]
    return report(ended, quick)


def report(ended: list[dict[str, Any]], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    columns = ("candidate", "verdict", "cause", "blame", "requests", "seconds", "fallbacks", "failed", "labels refused")
    keys = ("name", "verdict", "cause", "blame", "requests", "seconds", "fallbacks", "failed", "refused")
    right = sum(_right(row) for row in ended)
    tables = [Table("Rollouts", columns, [["-" if row[k] is None else row[k] for k in keys] for row in ended])]
    targets = [
        Target("rollouts with the right verdict and blame", float(right), float(len(ended)), False),
        Target("failed requests", float(sum(row["failed"] for row in ended)), 0, True),
        Target("feedback that was refused", float(sum(row["refused"] for row in ended)), 0, True),
    ]
    what = WHAT.format(rate=RATE, threads=THREADS, labels=LABELS)
    title = "Verdicts about candidates"
    return Report("verdicts", title, what, tables, targets, {"rollouts": ended}, quick)


def _right(row: dict[str, Any]) -> bool:
    if row["expected"] is None:
        return row["verdict"] == "PROMOTE" and row["champion"] == row["version"]
    return row["verdict"] == "ROLLBACK" and row["blame"] == row["expected"] and row["champion"] != row["version"]


def _register(storage: Path, configs: Path, case: Case) -> str:
    """Train the case as a user would, with a module of its own beside the configuration; returns its version."""
    if not configs.exists():
        shutil.copytree(models.CONFIG.parent, configs)
        (configs / "flawed.py").write_text(FLAWED, encoding="utf-8")
    models.train(storage, "gate.champion.tolerance=10", *case.settings, config=configs / models.CONFIG.name)
    return models.version_of(storage, "candidate")


def _rollout(endpoint: Endpoint, users: Users, case: Case, version: str) -> dict[str, Any]:
    """One rollout to its end."""
    from raymlops.rollout.ledger import Ledger
    from raymlops.store import Store

    ledger = Ledger(Store.at(str(endpoint.models.storage)), models.NAME)
    after, begun, before = ledger.numbers()[-1], time.monotonic(), users.counts()
    endpoint.rollout("start", models.NAME, "--version", version)
    kinds: set[str] = set()
    while not {"rolled_back", "finished"} & kinds:
        if time.monotonic() - begun > 300.0:
            raise RuntimeError(f"{case.name}: no verdict after 300 s: {endpoint.rollout('status', models.NAME)}")
        time.sleep(0.1)
        kinds = {entry.kind for entry in ledger.entries(after)}
        if case.flag is not None and "running" in kinds:
            case.flag.touch()
    seconds = time.monotonic() - begun
    entry = next(e for e in reversed(ledger.entries(after)) if e.kind in ("rollback", "finished"))
    numbers = entry.payload.get("numbers", {})
    arms = numbers.get("arms", [])
    print(f"... {case.name}: {entry.payload['verdict']}, {entry.payload['reason']}", file=sys.stderr, flush=True)
    counted = {name: value - before[name] for name, value in users.counts().items()}
    return {
        "name": case.name,
        "expected": case.blame,
        "version": version,
        **{key: entry.payload[key] for key in ("verdict", "cause", "blame", "reason")},
        "requests": numbers.get("requests"),
        "fallbacks": sum(arm["fallbacks"] for arm in arms[1:]) if arms else None,
        "seconds": seconds,
        "champion": models.version_of(endpoint.models.storage, "champion"),
        **counted,
    }


def _labelled(like: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """Rows of the data as a client sends them, in random order, each with its label."""
    import pandas as pd

    frame = pd.read_parquet(models.DATA, columns=[*like, "air_time"]).dropna().sample(4_000, random_state=1)
    records = json.loads(frame.to_json(orient="records"))
    return [(row, row.pop("air_time")) for row in records]


class Users(Clients):
    """Steady traffic with labels."""

    def __init__(self, endpoint: Endpoint, rows: Sequence[tuple[dict[str, Any], float]]) -> None:
        super().__init__(endpoint.port, THREADS)
        self._protocol, self._rows = endpoint.protocol, rows
        self._lock = threading.Lock()
        self._counts = {"answers": 0, "failed": 0, "refused": 0}

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def plan(self, number: int, post: Post) -> Iterator[float]:
        chance, known = random.Random(number), list[dict[str, Any]]()
        while True:
            yield chance.expovariate(RATE / THREADS)
            row, label = self._rows[chance.randrange(len(self._rows))]
            reply = post(self._protocol.path, self._protocol.encode(row))
            self._count("answers" if reply.status == 200 else "failed")
            if reply.status == 200:
                known.append({"prediction_id": json.loads(reply.body)["parameters"]["prediction_id"], "label": label})
            if len(known) >= LABELS:
                labelled = post(f"/v2/models/{models.NAME}/feedback", json.dumps({"labels": known}).encode())
                if labelled.status != 200:
                    self._count("refused")
                known.clear()

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run("verdicts", measure, argv)


if __name__ == "__main__":
    sys.exit(main())
