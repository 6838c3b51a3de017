"""Tables and targets of the serving benchmark, from what was measured."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import Table, Target
from benchmarks.serving_lib import figures
from benchmarks.serving_lib.figures import Samples
from benchmarks.serving_lib.load import Load
from benchmarks.serving_lib.ours import LOG, OURS, RESIDENT, TENTH
from benchmarks.serving_lib.peers import PEERS, TITLES
from benchmarks.serving_lib.recorder import CONNECTIONS
from benchmarks.serving_lib.switching import RUN_IN_SECONDS, TURN_SECONDS

ONE, TWO, RAY = TITLES["fastapi"], TITLES["fastapi-2"], TITLES["ray-serve"]
OTHERS = tuple(title for title in TITLES.values() if title not in (ONE, TWO))
"""Model servers: all that is not plain FastAPI."""


def samples_of(raw: Mapping[str, Any]) -> Samples:
    """Measured loads from their JSON."""
    return {
        label: {int(c): [Load(**load) for load in loads] for c, loads in by.items()}
        for label, by in raw["samples"].items()
    }


def tables(raw: Mapping[str, Any]) -> list[Table]:
    samples = samples_of(raw)
    labels = [label for label in (*OURS, *TITLES.values()) if label in samples]
    found = [_throughput(samples, labels, raw), _latency(samples, labels), _beside(samples, labels, raw)]
    if raw["log_starts"]:
        found.append(_log(raw))
    named = (*OURS, LOG, *TITLES.values())
    missing = [[label, raw["missing"][label]] for label in named if label in raw["missing"]]
    if missing:
        found.append(Table("Not available", ("contender", "why"), missing))
    return found


def targets(raw: Mapping[str, Any]) -> list[Target]:
    """The claims, with prediction logging on and a tenth of the traffic on a candidate. What was not measured is NaN,
    which meets nothing."""
    samples = samples_of(raw)
    least, where = figures.least_ratio(samples, TENTH, OTHERS, CONNECTIONS)
    over_ray, at = figures.least_ratio(samples, TENTH, (RAY,), CONNECTIONS)
    return [
        Target("10 % isolated / FastAPI, 1 worker, c = 16", figures.ratio(samples, TENTH, ONE, 16), 0.6, False),
        Target("10 % co-resident / FastAPI, 1 worker, c = 16", figures.ratio(samples, RESIDENT, ONE, 16), 0.75, False),
        Target(f"10 % isolated / every other peer, least ({where})", least, 1.0, False),
        Target(f"10 % isolated / {RAY}, least ({at.rpartition(', ')[2]})", over_ray, 8.0, False),
        Target("p50 at c = 1, 10 % isolated, ms", figures.median(samples, TENTH, 1, "p50"), 0.5, True),
        Target(
            "share of throughput that logging takes, c = 16, median of starts",
            figures.middle(_log_costs(raw)),
            0.05,
            True,
        ),
    ]


def _throughput(samples: Samples, labels: Sequence[str], raw: Mapping[str, Any]) -> Table:
    rows = [
        [
            label,
            *(figures.shown(figures.median(samples, label, c)) for c in CONNECTIONS),
            *(figures.shown(figures.ratio(samples, label, other, 16), "×") for other in (ONE, TWO, RAY)),
            figures.shown(100 * max(figures.spread(samples, label, c) for c in CONNECTIONS), " %"),
            figures.errors(samples, label),
        ]
        for label in labels
    ]
    columns = (
        *("contender", *(f"req/s, c = {c}" for c in CONNECTIONS), "÷ FastAPI × 1", "÷ FastAPI × 2"),
        *("÷ Ray Serve", "spread", "failed"),
    )
    notes = [
        f"Medians of {raw['repeats']} starts of each server; ÷ at c = 16; spread: (largest − smallest) / median over "
        "measurements, at the c where it is largest; failed: requests not answered with 2xx.",
        "raymlops: one replica behind HAProxy; the candidate, isolated, is a process of its own. Prediction log on "
        "unless said; a rollout is counted, compared and decided upon as in production, but its latency may be "
        "1000 times the champion's and its promotion waits for approval, so that no verdict ends what is measured.",
        "Targets compare with FastAPI × 1: one process that answers, as of raymlops here; × 2 is shown beside.",
        *(f"{peer.title} ({_version(peer.name, raw)}): {peer.how}." for peer in PEERS if peer.title in labels),
        f"One torch thread per process; {len(os.sched_getaffinity(0))} cores for server and generator together.",
    ]
    return Table("Throughput", columns, rows, notes)


def _latency(samples: Samples, labels: Sequence[str]) -> Table:
    columns = ("contender", *(f"{q}, c = {c}" for c in CONNECTIONS for q in ("p50", "p99")))
    rows = [
        [label, *(figures.shown(figures.median(samples, label, c, q)) for c in CONNECTIONS for q in ("p50", "p99"))]
        for label in labels
    ]
    return Table("Latency in milliseconds", columns, rows)


def _beside(samples: Samples, labels: Sequence[str], raw: Mapping[str, Any]) -> Table:
    rows = [
        [
            label,
            raw["asked"].get(label, 0),
            max(raw["memory_mib"].get(label, [0.0])),
            figures.shown(100 * figures.median(samples, label, 16, "generator_share"), " %"),
        ]
        for label in labels
    ]
    notes = [
        "Answers checked: compared with the champion's prediction, all right; of a candidate's, counted.",
        "Memory: what the server's processes hold for themselves (unique set size) after the load.",
        f"Generator ({raw['generator']}): its share of all cores' time at c = 16, which it takes from the server.",
    ]
    return Table("Beside it", ("contender", "answers checked", "memory, MiB", "generator's CPU"), rows, notes)


def _log(raw: Mapping[str, Any]) -> Table:
    costs = _log_costs(raw)
    couples = [couple for start in raw["log_starts"] for couple in start]
    rates = [[figures.middle(found) for found in zip(*turns, strict=True)] for turns in raw["log_starts"]]
    numbered = enumerate(zip(rates, costs, raw["log_starts"], strict=True), start=1)
    rows = [[str(number), *rate, f"{100 * cost:.1f} %", _interval(turns)] for number, (rate, cost, turns) in numbered]
    middle = (figures.middle(found) for found in zip(*rates, strict=True))
    rows.append(["median", *middle, f"{100 * figures.middle(costs):.1f} %", _interval(couples)])
    notes = [
        f"{TENTH}, at c = 16: a server that logs and does not in turn, {TURN_SECONDS:g} s each after "
        f"{RUN_IN_SECONDS:g} s that do not count; {len(couples)} turns with and {len(couples)} without. What is "
        "taken is the median over couples of turns that follow each other, as the machine is not the same for long.",
        "95 % interval: of that median, of the start's couples or of all, from their order (the inverted sign test).",
    ]
    columns = ("start", "req/s with log", "req/s without", "taken", "95 % interval")
    return Table("What the prediction log takes", columns, rows, notes)


def _interval(couples: Sequence[Sequence[float]]) -> str:
    low, high = figures.median_interval(figures.costs(couples))
    return "–" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f} %"


def _log_costs(raw: Mapping[str, Any]) -> list[float]:
    """Of each start, the share of the throughput that the log takes."""
    return [figures.middle(figures.costs(turns)) for turns in raw["log_starts"]]


def _version(name: str, raw: Mapping[str, Any]) -> str:
    versions = raw["versions"].get(name, {})
    wanted = {"fastapi-2": "fastapi", "ray-serve": "ray"}.get(name, name)
    return f"{wanted} {versions.get(wanted, 'unknown')}"
