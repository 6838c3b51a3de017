"""How fast a decision reaches the traffic: the last answer of a candidate that is taken back, and a new weight."""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Table, Target, in_child, run
from benchmarks.serving_lib import models
from benchmarks.serving_lib.delays import rollback_delays, step_delays
from benchmarks.serving_lib.endpoint import serving
from benchmarks.serving_lib.figures import quantile
from benchmarks.serving_lib.observer import Observer

REPLICAS, RATE = 4, 400.0
STEPS = 40
"""Weights of the second part, 1 % apart."""
SMALL = (f"serving.replicas={REPLICAS}", "serving.cpus=0.25", "serving.candidate.cpus=0.25")
WHAT = """\
An endpoint with {replicas} replicas and an isolated candidate under {rate:.0f} requests a second from 8 connections,
on the same cores. Rollbacks: half of the traffic is on the candidate when its rollout is taken back; measured from the
time that the ledger gives for the decision to the client's last complete answer that a candidate gave. Weights: a
rollout raises its share by 1 % about twice a second; measured from the ledger's time of the decision to the first
request that a replica routes by the new share, by its prediction log; waiting for that request is part of it."""


def measure(quick: bool, options: argparse.Namespace) -> Report:
    """Verdict to last answer of a candidate, and weight change to the last of four replicas."""
    count, steps = (3, 5) if quick else (options.rollbacks, STEPS)
    with ExitStack() as stack:
        storage = options.storage or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymlops-serving-")))
        given = models.prepare(storage)
        with serving(given, ("rollout.steps=[{share: 0.5}]", *SMALL)) as endpoint:
            bodies = [endpoint.protocol.encode(row).decode() for row in given.rows]
            where = {"port": endpoint.port, "path": endpoint.protocol.path, "bodies": bodies}
            taken = in_child(take_back, **where, version=given.candidate, count=count)
        shares = ", ".join(f"{{share: {n / 100}, min_seconds: 0.5}}" for n in range(1, steps + 1))
        begin = datetime.now(UTC)
        with serving(given, (f"rollout.steps=[{shares}]", *SMALL)) as endpoint:
            where["port"] = endpoint.port
            raised = in_child(raise_share, **where, version=given.candidate, last=steps / 100)
        raised["delays"] = step_delays(raised["entries"], _routed(storage, begin), REPLICAS)
    return report({"rollbacks": taken, "steps": raised}, quick)


def take_back(port: int, path: str, bodies: list[str], version: str, count: int) -> dict[str, Any]:
    """Start and take back `count` rollouts of a version under load."""
    client = _client()
    first = len(client.history())
    with Observer(port, path, [body.encode() for body in bodies], RATE) as observer:
        for number in range(count):
            client.start([version], force=True)
            _until(lambda: observer.share() > 0.3, f"rollout {number} to get half of the traffic")
            client.abort()
            _until(lambda: client.status()["rollout"] is None, f"rollout {number} to end")
            time.sleep(0.3)  # an answer that is later than this would be counted still: the next start takes longer
    entries = client.history()[first:]
    delays = rollback_delays(entries, observer.candidates)
    return {"delays": delays, **_seen(observer), "candidate_answers": len(observer.candidates)}


def raise_share(port: int, path: str, bodies: list[str], version: str, last: float) -> dict[str, Any]:
    """One rollout through all its steps under load."""
    client = _client()
    first = len(client.history())
    with Observer(port, path, [body.encode() for body in bodies], 2 * RATE) as observer:
        client.start([version], force=True)
        _until(lambda: _share(client.status()) >= last - 1e-9, "the last step", 180.0)
        time.sleep(1.0)
        client.abort()
    return {"entries": client.history()[first:], **_seen(observer)}


def report(raw: dict[str, Any], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    taken = raw["rollbacks"]["delays"]
    slowest = [max(delays) for delays in raw["steps"]["delays"]]
    every = [delay for delays in raw["steps"]["delays"] for delay in delays]
    rows = [
        [f"rollback: last answer by the candidate ({len(taken)} rollbacks)", *_summary(taken)],
        [f"new weight: the last of {REPLICAS} replicas ({len(slowest)} steps)", *_summary(slowest)],
        [f"new weight: any replica ({len(every)} times)", *_summary(every)],
    ]
    counted = [
        [name, raw[key]["answers"], len(raw[key]["failed"])]
        for name, key in (("rollbacks", "rollbacks"), ("weights", "steps"))
    ]
    tables = [
        Table("Milliseconds from the decision", ("what", "median", "p90", "p99", "largest"), rows),
        Table("Requests meanwhile", ("part", "answered", "failed"), counted),
    ]
    targets = [
        Target("verdict to last answer by the candidate, p99, ms", 1000 * quantile(taken, 0.99), 200, True),
        Target(f"new weight in all of {REPLICAS} replicas, median, ms", 1000 * statistics.median(slowest), 50, True),
        Target("failed requests", float(sum(row[2] for row in counted)), 0, True),
    ]
    what = WHAT.format(replicas=REPLICAS, rate=RATE)
    return Report("rollback", "How fast decisions reach the traffic", what, tables, targets, raw, quick)


def _summary(seconds: Sequence[float]) -> list[float]:
    return [1000 * statistics.median(seconds), *(1000 * quantile(seconds, share) for share in (0.9, 0.99, 1.0))]


def _seen(observer: Observer) -> dict[str, Any]:
    return {"answers": observer.answers, "failed": observer.failed}


def _client() -> Any:
    """Joins the Ray of the endpoint that runs on this machine."""
    from raymlops.serving.local import find

    endpoint = find(models.NAME)
    if endpoint is not None:
        os.environ.update(endpoint.environment())
    from raymlops.rollout.client import RolloutClient

    return RolloutClient(models.NAME)


def _share(status: dict[str, Any]) -> float:
    rollout = status["rollout"]
    return sum(arm["share"] or 0.0 for arm in rollout["arms"][1:]) if rollout is not None else 0.0


def _until(reached: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


def _routed(storage: Path, begin: datetime) -> list[tuple[float, str, float]]:
    """(time of routing, replica, candidate's share then) of every logged request since `begin`."""
    from raymlops.serving.prediction_reader import read_predictions
    from raymlops.store import Store

    columns = ["time", "replica", "variant", "weight"]
    table = read_predictions(
        Store.at(str(storage)), models.NAME, begin, datetime.now(UTC) + timedelta(hours=1), columns
    )
    times, replicas, variants, weights = (table[name].to_pylist() for name in columns)
    shares = [1.0 - w if v == "champion" else w for v, w in zip(variants, weights, strict=True)]
    return [(at.timestamp(), r, share) for at, r, share in zip(times, replicas, shares, strict=True)]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--storage", type=Path, metavar="DIR", help="keep the trained models here, and take them again")
    parser.add_argument("--rollbacks", type=int, default=100, help="default: 100")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    own = _options()
    options, _ = own.parse_known_args(argv)
    measuring = partial(measure, options=options)
    measuring.__doc__ = measure.__doc__
    return run("rollback", measuring, argv, [own])


if __name__ == "__main__":
    sys.exit(main())
