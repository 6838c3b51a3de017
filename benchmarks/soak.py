"""The endpoint for hours in minutes: rollouts one after the other under load, its controller killed again and again."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Table, Target, in_child, run
from benchmarks.serving_lib import models
from benchmarks.serving_lib.endpoint import serving
from benchmarks.serving_lib.observer import Observer

REQUESTS, PROMOTIONS, KILLS, RATE = 100_000, 20, 50, 400.0
WARM = 3
"""Promotions after which memory is expected to stay; what is loaded late is loaded by then."""
GROWTH_MIB = 30.0
SEED = 4
POINTS = ("started", "running", "step", "promotion", "promoting", "promoted", "alias", "finished")
"""Entries of the ledger after which the controller is killed, a random time later."""
SETTINGS = (
    "serving.replicas=2",
    "serving.cpus=0.25",
    "serving.candidate.cpus=0.25",
    "rollout.steps=[{share: 0.3}, {share: 0.5}]",
    "rollout.approve_promotion=false",
    "rollout.bake_seconds=0.5",
    "rollout.comparisons={errors: {kind: rate, excess: 0.2, strata: 1}}",
)
WHAT = """\
An endpoint with two replicas and isolated candidates under {rate:.0f} requests a second from 8 connections, on the same
cores. Two good versions replace each other by rollouts that promote themselves; after each promotion the resident
memory of both replicas is read. Then rollouts go on while their controller is killed (SIGKILL) at random points of
their course; each has to end as an undisturbed one does, with one promotion. At last rollouts are promoted and aborted
in turn until there were enough requests."""


def measure(quick: bool, options: argparse.Namespace) -> Report:
    """Failed requests, memory and verdicts over many rollouts and many deaths of their controller."""
    sizes = (3_000, 3, 3) if quick else (options.requests, options.promotions, options.kills)
    with ExitStack() as stack:
        storage = options.storage or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymlops-soak-")))
        given = models.prepare(storage)
        shutil.rmtree(storage / "rollouts", ignore_errors=True)  # of an earlier soak, whose end nobody waited for
        endpoint = stack.enter_context(serving(given, SETTINGS))
        raw = in_child(
            soak,
            port=endpoint.port,
            path=endpoint.protocol.path,
            bodies=[endpoint.protocol.encode(row).decode() for row in given.rows],
            storage=str(storage.resolve()),
            versions=[given.champion, given.candidate],
            sizes=sizes,
        )
    return report(raw, quick)


def soak(
    port: int, path: str, bodies: list[str], storage: str, versions: list[str], sizes: tuple[int, int, int]
) -> dict[str, Any]:
    """Everything that is measured, in the order of `WHAT`. `sizes` are requests, promotions and kills."""
    course = _Course(storage, versions)
    requests, promotions, kills = sizes
    with Observer(port, path, [body.encode() for body in bodies], RATE) as observer:
        promoted = [course.promotion() for _ in range(promotions)]
        killed = course.killed(kills, observer)
        course.until(lambda: observer.answers >= requests, promote=True)
    return {
        "promotions": promoted,
        "kills": killed,
        "rollouts": course.rollouts,
        "answers": observer.answers,
        "failed": observer.failed,
        "entries": len(course.verify()),
    }


class _Course:
    """Rollouts of one endpoint, ordered from here and read from its ledger."""

    def __init__(self, storage: str, versions: Sequence[str]) -> None:
        from raymlops.serving.local import find

        found = find(models.NAME)
        assert found is not None, "the endpoint was started before"
        os.environ.update(found.environment())
        from raymlops.rollout.client import RolloutClient
        from raymlops.rollout.ledger import Ledger
        from raymlops.store import Store

        self._server, self._versions = found.pid, versions
        self._client = RolloutClient(models.NAME)
        self._ledger = Ledger(Store.at(storage), models.NAME)
        self.rollouts: list[dict[str, Any]] = []

    def verify(self) -> list[Any]:
        """All entries. Raises IntegrityError when the chain is broken."""
        from raymlops.rollout.ledger import verify

        return verify(self._ledger.store, models.NAME)

    def promotion(self) -> dict[str, Any]:
        """One undisturbed rollout to its end, and the memory of the replicas after it."""
        began = time.monotonic()
        after = self._begin()
        self._end(after, "promotion")
        return {"seconds": time.monotonic() - began, "memory": self._memory(), **self.rollouts[-1]}

    def killed(self, count: int, observer: Observer) -> list[str]:
        """Rollouts until the controller was killed so often, each time after an entry of the ledger and a random number
        of answers; returns those entries."""
        chance, points = random.Random(SEED), list[str]()
        while len(points) < count:
            after = self._begin()
            for kind in [kind for kind in POINTS if chance.random() < 0.6][: count - len(points)]:
                _until(lambda k=kind, a=after: k in self._kinds(a), f"{kind} after {self._kinds(after)}", 180.0)
                wanted = observer.answers + chance.randint(1, int(RATE / 2))
                _until(lambda n=wanted: observer.answers >= n, "answers")
                points.append(kind)
                self._kill()
            self._end(after, "kills")
        return points

    def until(self, reached: Callable[[], bool], promote: bool) -> None:
        """Rollouts that are promoted and aborted in turn."""
        while not reached():
            after = self._begin()
            if not promote:
                _until(lambda a=after: "running" in self._kinds(a), "candidates to run")
                self._patiently(self._client.abort)
            self._end(after, "soak", "PROMOTE" if promote else "ROLLBACK")
            promote = not promote

    def _begin(self) -> int:
        """Starts the version that is not the champion; returns the last entry before."""
        champion = self._patiently(self._client.status)["champion"]["version"]
        after = self._ledger.numbers()[-1]
        version = next(version for version in self._versions if version != champion)
        self._patiently(lambda: self._client.start([version], force=True))
        return after

    def _end(self, after: int, part: str, expected: str = "PROMOTE") -> None:
        _until(lambda: self._ended(after), f"a rollout to end: {self._kinds(after)}", 180.0)
        entries = self._ledger.entries(after)
        last = next(e for e in reversed(entries) if e.kind in ("rollback", "finished"))
        kinds = Counter(entry.kind for entry in entries)
        verdict = str(last.payload["verdict"])
        right = verdict == expected and kinds["promoted"] == (expected == "PROMOTE")
        self.rollouts.append({"part": part, "verdict": verdict, "expected": expected, "right": right})

    def _ended(self, after: int) -> bool:
        return bool({"rolled_back", "finished"} & set(self._kinds(after)))

    def _kinds(self, after: int) -> list[str]:
        return [entry.kind for entry in self._ledger.entries(after)]

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """The controller may be starting anew: asks until it answers."""
        from raymlops.errors import RaymlopsError, Refused

        end = time.monotonic() + 120.0
        while True:
            try:
                found = ask()
            except Refused:
                raise
            except RaymlopsError:
                if time.monotonic() > end:
                    raise
            else:
                if not isinstance(found, dict) or found.get("controller", {}).get("state") != "recovering":
                    return found
            time.sleep(0.05)

    def _kill(self) -> None:
        """Kills the controller that is in charge, and waits for the next."""
        term = next(entry for entry in reversed(self._ledger.entries()) if entry.kind == "term")
        os.kill(int(term.payload["controller"].split(":")[1]), signal.SIGKILL)
        _until(lambda: self._ledger.entries(term.n)[-1:] and self._newest_term() > term.term, "a new controller")

    def _newest_term(self) -> int:
        return int(self._ledger.entries()[-1].term)

    def _memory(self) -> dict[str, float]:
        """Process → resident MiB, of the endpoint's replicas."""
        import psutil

        found = {}
        for process in psutil.Process(self._server).children(recursive=True):
            with suppress(psutil.Error):
                if (process.cmdline() or [""])[0].startswith(f"ray::ServeReplica:{models.NAME}:"):
                    found[str(process.pid)] = process.memory_info().rss / 2**20
        return found


def report(raw: dict[str, Any], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    promoted, rollouts = raw["promotions"], raw["rollouts"]
    columns = ("promotion", "seconds", *(f"replica {n + 1}, MiB" for n in range(len(promoted[0]["memory"]))))
    rows = [[n, row["seconds"], *row["memory"].values()] for n, row in enumerate(promoted, start=1)]
    points = Counter(raw["kills"])
    counted = [
        [part, len(of), sum(row["right"] for row in of)]
        for part in ("promotion", "kills", "soak")
        if (of := [row for row in rollouts if row["part"] == part])
    ]
    warm = promoted[min(WARM, len(promoted)) - 1]["memory"]
    same = all(row["memory"].keys() == warm.keys() for row in promoted)
    grown = max(promoted[-1]["memory"].get(pid, 0.0) - size for pid, size in warm.items())
    tables = [
        Table("Resident memory of the replicas", columns, rows),
        Table(
            "The controller was killed up to half a second after",
            ("entry of the ledger", "times"),
            [[kind, points[kind]] for kind in POINTS if points[kind]],
        ),
        Table("Rollouts", ("part", "count", "ended as they should"), counted),
    ]
    targets = [
        Target("requests", float(raw["answers"]), REQUESTS, False),
        Target("failed requests", float(len(raw["failed"])), 0, True),
        Target("kills of the controller", float(len(raw["kills"])), KILLS, False),
        Target("rollouts that ended otherwise", float(sum(not row["right"] for row in rollouts)), 0, True),
        Target("promotions", float(len(promoted)), PROMOTIONS, False),
        Target(f"growth of a replica after promotion {WARM}, MiB", grown if same else float("inf"), GROWTH_MIB, True),
    ]
    return Report("soak", "Many rollouts, many crashes", WHAT.format(rate=RATE), tables, targets, raw, quick)


def _until(reached: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--storage", type=Path, metavar="DIR", help="keep the trained models here, and take them again")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"default: {REQUESTS}")
    parser.add_argument("--promotions", type=int, default=PROMOTIONS, help=f"default: {PROMOTIONS}")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"default: {KILLS}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    own = _options()
    options, _ = own.parse_known_args(argv)
    measuring = partial(measure, options=options)
    measuring.__doc__ = measure.__doc__
    return run("soak", measuring, argv, [own])


if __name__ == "__main__":
    sys.exit(main())
