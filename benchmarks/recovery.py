"""What a kill costs, and what it costs to be able to say so: `python -m benchmarks.recovery`.

The flights job is killed at the beginning of every step and at random moments, alone, with all of its local Ray or that
Ray alone, and run again to its end. Lost is work that was done since the last file that the next run goes on from.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.common import ROOT, Report, Table, Target, in_child, run

CONFIG = ROOT / "configs" / "flights.yaml"
CHANGES = ["search.scheduler=fifo", "search.trials=6"]
"""fifo, so that the weights can be compared: which trials asha stops depends on timing."""
STEPS = ("snapshot", "search", "refit", "gate", "register", "report")
RANDOM = 20
VICTIMS = DRIVER, BOTH, RAY = "driver", "driver and all of Ray", "all of Ray"
EVERY = 30.0
"""Seconds between two stored states of a training, the default of `train.checkpoint.every`."""
GONE_SECONDS = 30.0
WHAT = (
    "`raymlops run configs/flights.yaml` with six trials and `scheduler: fifo`, killed with SIGKILL as soon as a step "
    "had begun, or at a moment drawn over the length of an undisturbed run: alone, with all of its local Ray, or that "
    "Ray alone, which the driver then has to notice by itself. Then it was run again. Lost is what had been done since "
    "the last file that the next run went on from. A step that the next run did was under way or still to come; within "
    "the search, trials that had ended were kept and those under way went on. The journal is facts, hashes, plans, "
    "records and lock, timed in one whole run of the job as it stands in the repository."
)


@dataclass
class Process:
    """One `raymlops run`, what it has said so far and when."""

    storage: Path
    settings: Sequence[str]
    started: float = field(default_factory=time.time)
    lines: list[tuple[float, str]] = field(default_factory=list)
    family: list[psutil.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        changes = [f"storage={self.storage}", *self.settings]
        arguments = [part for change in changes for part in ("--set", change)]
        kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raymlops", "run", str(CONFIG), "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, "PYTHONPATH": str(ROOT)},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((time.time(), line.rstrip()))

    def wait_for(self, beginning: str) -> bool:
        """Until it says a line that begins so; False when it ended without."""
        while self.process.poll() is None or self.reader.is_alive():
            if any(line.startswith(beginning) for _, line in self.lines):
                return True
            time.sleep(0.01)
        return False

    def kill(self, victims: str) -> float:
        """SIGKILL of those of `VICTIMS`; returns when."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        at = time.time()
        for member in [] if victims == DRIVER else self.family:
            _kill(member.pid)
        if victims != RAY:
            _kill(self.process.pid)
            self.process.wait()
        return at

    def gone(self) -> float:
        """Wait for the end of all, a spared driver's own included; returns when that was."""
        self.process.wait()
        at = time.time()
        _, left = psutil.wait_procs(self.family, timeout=GONE_SECONDS)
        for member in left:
            _kill(member.pid)
        return at

    def result(self) -> dict[str, Any]:
        """Raises RuntimeError when it failed."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        code = self.process.wait()
        self.reader.join(5)
        if code not in (0, 3):
            raise RuntimeError(f"exit code {code}: {said} " + "\n".join(line for _, line in self.lines[-10:]))
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return {**found, "wall": time.time() - self.started}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def work_lost(root: Path, at: float) -> float:
    """Seconds of work that no file below `root` holds: of the process that lost most of it.

    A step leaves a file when it begins and when it ends, a trial also for each of its states.
    """
    trials = [(path, json.loads(path.read_text())) for path in root.glob("*/trial-*/record.json")]
    open_ = [path.parent for path, found in trials if _status(found) in ("pending", "running")]
    if open_:
        return max(at - _newest([trial / "record.json", *trial.glob("state/*/state.json")]) for trial in open_)
    known = [*root.glob("jobs/*.json"), *root.glob("steps/*/*.json"), *root.glob("*/refit/state/*/state.json")]
    known += [path for path, _ in trials]
    return at - _newest(known) if known else 0.0


def _status(found: dict[str, Any]) -> str:
    return str(found.get("record", found).get("status"))


def _newest(paths: Sequence[Path]) -> float:
    times = [0.0]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # an old state, removed meanwhile
            times.append(path.stat().st_mtime)
    return max(times)


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    point: str
    what: str
    after_s: float
    lost_s: float
    again: list[str]
    """Steps that the next run had to do, in whole or in part."""
    trials: int
    """That had ended and were not trained again."""
    finish_s: float
    """Until the next run was done, with the start of Ray."""
    told_s: float
    """Until the process had ended; where it was spared, because it had noticed."""
    same: bool
    """Weights, run and number of records as if nothing had happened."""


def _kill_one(folder: Path, point: str, victims: str, expected: dict[str, Any], delay: float | None) -> Kill | None:
    """None when the run had ended before."""
    storage = folder / f"killed-{time.time_ns()}"
    first = Process(storage, CHANGES)
    if delay is None:
        first.wait_for(f"{point}: ")
    else:
        if victims == RAY:
            first.wait_for("start: done")
        time.sleep(max(0.0, first.started + delay - time.time()))
    if first.process.poll() is not None:
        return None
    at = first.kill(victims)
    root = storage / "runs" / "flights"
    lost = max(0.0, work_lost(root, at))
    ended = [json.loads(path.read_text()) for path in root.glob("*/trial-*/record.json")]
    kept = sum(_status(found) not in ("pending", "running") for found in ended)
    told = first.gone() - at
    again = Process(storage, CHANGES).result()
    runs, trials = _recorded(storage)
    same = again["weights_sha256"] == expected["weights_sha256"] and (runs, trials) == (1, 6)
    undone = [step for step in STEPS if step not in again["reused"]]
    return Kill(point, victims, at - first.started, lost, undone, kept, again["wall"], told, same)


def _recorded(storage: Path) -> tuple[int, int]:
    """Jobs and trials in MLflow."""
    from raymlops.registry.backend import tracking
    from raymlops.registry.catalog import find_jobs
    from raymlops.store import Store

    where = tracking(None, Store(str(storage)))
    jobs = list(find_jobs(where, "flights"))
    experiments = [experiment.experiment_id for experiment in where.client.search_experiments()]
    trials = where.client.search_runs(experiments, "tags.`raymlops.kind` = 'trial'", max_results=1000)
    return len(jobs), len(trials)


def overhead(storage: str) -> dict[str, Any]:
    """Seconds of one job in this process, and of them those in the journal: facts, hashes, plans, records, lock."""
    from raymlops import lock
    from raymlops.config import load_config
    from raymlops.imports import add_user_directory
    from raymlops.retraining import pipeline
    from raymlops.retraining.desk import Desk
    from raymlops.retraining.job import Job
    from raymlops.retraining.records import Records
    from raymlops.retraining.watch import Silent

    spent: dict[str, float] = {}
    depth = 0

    def timed(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            began = time.perf_counter()
            try:
                return real(*arguments, **options)
            finally:
                depth -= 1
                if not depth:  # what another timed call contains is its own
                    spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

        setattr(owner, name, call)

    for owner, name in (
        (Desk, "__init__"),
        (Desk, "look"),
        (Desk, "plan"),
        (Desk, "read"),
        (Records, "done"),
        (Records, "write_job"),
        (lock, "_take"),
        (Job, "_planned"),
    ):
        timed(owner, name)
    add_user_directory(CONFIG.parent)
    config = load_config(CONFIG, [f"storage={storage}"])
    result = pipeline.run_job(config, CONFIG.parent, Silent())
    return {"total_s": result.seconds["total"], "journal_s": sum(spent.values()), "spent": spent}


def measure(quick: bool) -> Report:
    """Kill the flights job at every step and at random moments; time the journal and a run without changes."""
    with tempfile.TemporaryDirectory(prefix="raymlops-recovery-") as name:
        folder = Path(name)
        undisturbed = Process(folder / "undisturbed", CHANGES).result()
        at_steps = [
            (step, victims, None)
            for victims in VICTIMS
            for step in (STEPS[1:2] if quick or victims != DRIVER else STEPS)
        ]
        draw = random.Random(7)
        anywhen = ((f"random {n + 1}", VICTIMS[n % 3], draw.uniform(0.0, undisturbed["wall"])) for n in count())
        kills: list[Kill] = []
        for point, victims, delay in chain(at_steps, anywhen):
            if len(kills) == len(at_steps) + (3 if quick else RANDOM):
                break
            if found := _kill_one(folder, point, victims, undisturbed, delay):
                kills.append(found)
                print(f"... {found}", file=sys.stderr, flush=True)
        journal = in_child(overhead, storage=str(folder / "overhead"))
        same = []
        for _ in range(1 if quick else 5):
            began = time.perf_counter()
            unchanged = Process(folder / "undisturbed", CHANGES).result()
            assert unchanged["unchanged"], unchanged
            same.append(time.perf_counter() - began)
    same_as_undisturbed = sum(k.same for k in kills)
    share = journal["journal_s"] / journal["total_s"]
    rows = [
        [k.point, k.what, k.after_s, k.lost_s, ", ".join(k.again) or "nothing", k.trials, k.told_s, k.finish_s]
        for k in kills
    ]
    return Report(
        name="recovery",
        title="What a kill costs",
        what=WHAT,
        tables=[
            Table(
                "Kills",
                (
                    "killed at",
                    "what",
                    "after s",
                    "lost s",
                    "done by the next run",
                    "trials kept",
                    "ended s",
                    "next run s",
                ),
                rows,
                notes=[
                    f"{same_as_undisturbed} of {len(kills)} ended in one tracked run of six trials with the "
                    "undisturbed weights.",
                    "ended: until the driver had ended, by itself where only its Ray was killed.",
                ],
            ),
            Table(
                "The journal",
                ("", "seconds"),
                [
                    ["whole job", journal["total_s"]],
                    ["of it the journal", journal["journal_s"]],
                    ["run without changes, median", median(same)],
                    ["run without changes, longest", max(same)],
                ],
            ),
        ],
        targets=[
            Target("work lost by a kill, seconds", max(k.lost_s for k in kills), EVERY, True),
            Target(
                "kills after which something was lost, doubled or different", len(kills) - same_as_undisturbed, 0, True
            ),
            Target("journal and hashing, share of the job", share, 0.03, True),
            Target("run without changes, seconds", max(same), 5.0, True),
        ],
        raw={"kills": [vars(k) for k in kills], "journal": journal, "unchanged_s": same, "undisturbed": undisturbed},
        quick=quick,
    )


if __name__ == "__main__":
    sys.exit(run("recovery", measure))
