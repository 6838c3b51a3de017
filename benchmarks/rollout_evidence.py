"""May the evidence behind a rollout be trusted, how fast is it, and how do public rules do on the same traffic?"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.common import Report, Table, Target, run
from benchmarks.rollout_evidence_lib.cost import cost
from benchmarks.rollout_evidence_lib.nulls import SPLIT_ALPHA, nulls
from benchmarks.rollout_evidence_lib.peers import rules, scenarios
from benchmarks.rollout_evidence_lib.plot import plot
from benchmarks.rollout_evidence_lib.speed import cases
from benchmarks.rollout_evidence_lib.streams import ALPHA
from benchmarks.rollout_evidence_lib.traffic import traffic

SEED = 20_240_611
WHAT = f"""\
Simulated rollouts at α = {ALPHA}, seed {SEED}. Wrong decisions: the share of rollouts in which a candidate that must
not be rolled back (promoted) ever is, looking after every event, with an exact 95 % interval; rows that begin with a
dash break one rule of the method and show what it is for. Speed: total requests to the decision, beside the least
mean that any valid test can have, log(1/α) over the information per request (for labels: of the best constant bet of
somebody who knows every distribution). Medians can lie below it because decision times are skewed. Peers: the
decision rules as documented, on the same hour of traffic at 10 requests a second. Cost: CPU time, with 5 metrics and
3 candidates."""


_KINDS = (
    ("rollback", "rollbacks that are wrong", ALPHA),
    ("promotion", "promotions that are wrong", ALPHA),
    ("split", "splits called broken that are not", SPLIT_ALPHA),
)


def measure(quick: bool) -> Report:
    """False decisions, requests to a decision, peers and cost of the rollout evidence."""
    wrong, few = _wrong(quick), 300
    speed = _speed(few if quick else 4000)
    peers = _peers(few if quick else None)
    raw = {"wrong": wrong, "speed": speed, "peers": peers, "cost": cost(20_000 if quick else 200_000), "seed": SEED}
    if not quick:
        plot(wrong, peers)
    return report(raw, quick)


def report(raw: dict[str, Any], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    wrong, speed, peers, costs = (raw[name] for name in ("wrong", "speed", "peers", "cost"))
    right = [row for row in wrong if row["right"]]
    targets = [
        Target(f"{what}: largest lower 95 % bound over {n} nulls", worst, alpha, True)
        for kind, what, alpha in _KINDS
        for n, worst in [_worst([row for row in right if row["kind"] == kind])]
    ]
    targets += [Target(row["case"], row["median"], row["target"], True) for row in speed if row["target"]]
    targets += [
        Target("event update, µs", costs["event, µs"], 5.0, True),
        Target("decision tick, ms", costs["tick, ms"], 1.0, True),
        Target("state without keys, KB", costs["state without keys, KB"], 100.0, True),
        Target("state per key with an event, bytes", costs["state per key with an event, bytes"], 16.0, True),
    ]
    tables = [*_wrong_tables(wrong), _speed_table(speed), *_peer_tables(peers), _cost_table(costs)]
    return Report("rollout_evidence", "Evidence behind a rollout", WHAT, tables, targets, raw, quick)


def _wrong(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for number, null in enumerate(nulls()):
        rng, found, n = np.random.default_rng([SEED, 1, number]), 0, 0
        start = time.process_time()
        while n < (200 if quick else null.least):
            decided = null.run(rng, null.batch)
            found, n = found + int(decided.sum()), n + len(decided)
        low = float(beta.ppf(0.025, found, n - found + 1)) if found else 0.0
        high = float(beta.ppf(0.975, found + 1, n - found)) if found < n else 1.0
        row = {"null": null.name, "kind": null.kind, "right": null.right, "rollouts": n, "wrong": found}
        rows.append({**row, "rate": found / n, "low": low, "high": high})
        print(f"... {null.name}: {found}/{n} ({time.process_time() - start:.0f} s)", file=sys.stderr, flush=True)
    return rows


def _worst(rows: list[dict[str, Any]]) -> tuple[int, float]:
    return len(rows), max(row["low"] for row in rows)


def _speed(n: int) -> list[dict[str, Any]]:
    rows = []
    for number, case in enumerate(cases()):
        rng = np.random.default_rng([SEED, 2, number])
        found = np.concatenate([case.run(rng, 250) for _ in range(-(-n // 250))])
        usable = found[~np.isnan(found)]
        decided = usable[np.isfinite(usable)]
        median = float(np.median(usable)) if len(decided) * 2 > len(usable) else None
        row = {
            "case": case.name,
            "median": median,
            "mean": float(decided.mean()),
            "decided": len(decided) / len(usable),
        }
        rows.append(
            {**row, "floor": case.floor, "ratio": median / case.floor if median else None, "target": case.target}
        )
        print(f"... {case.name}: {median}", file=sys.stderr, flush=True)
    return rows


def _peers(least: int | None) -> list[dict[str, Any]]:
    rows = []
    for number, (name, rate, ratio, share) in enumerate(scenarios()):
        found: dict[str, list[np.ndarray]] = {rule.name: [] for rule in rules()}
        limits = {rule.name: least or rule.least for rule in rules()}
        for batch in range(max(limits.values()) // 100 // 5 or 1):
            t = traffic(
                np.random.default_rng([SEED, 3, number, batch]), min(500, max(limits.values())), rate, ratio, share
            )
            for rule in rules():
                if sum(map(len, found[rule.name])) < limits[rule.name]:
                    found[rule.name].append(rule.run(t))
        for rule in rules():
            at = np.concatenate(found[rule.name])
            hit = np.isfinite(at)
            row = {
                "scenario": name,
                "rule": rule.name,
                "note": rule.note,
                "rollouts": len(at),
                "rolled_back": float(hit.mean()),
            }
            rows.append({**row, "median": float(np.median(at)) if hit.mean() > 0.5 else None})
        print(f"... peers, {name}", file=sys.stderr, flush=True)
    return rows


def _wrong_tables(rows: list[dict[str, Any]]) -> list[Table]:
    titles = {
        "rollback": "Wrong rollbacks: the candidate is the same model",
        "promotion": "Wrong promotions: the candidate is exactly at the margin, 200,000 requests",
        "split": f"Wrong alarms about the split, at α = {SPLIT_ALPHA}",
    }
    return [
        Table(
            title,
            ("rollouts in which", "decided wrongly", "95 % interval", "rollouts"),
            [
                (r["null"], f"{r['rate']:.2%}", f"{r['low']:.2%} – {r['high']:.2%}", r["rollouts"])
                for r in rows
                if r["kind"] == kind
            ],
        )
        for kind, title in titles.items()
    ]


def _speed_table(rows: list[dict[str, Any]]) -> Table:
    columns = ("case", "median requests", "mean", "decided", "floor of the mean", "median / floor", "wanted")
    body = []
    for r in rows:
        wanted = f"≤ {r['target']:,}" if r["target"] else ""
        numbers = (r["median"] or "–", r["mean"], f"{r['decided']:.1%}", r["floor"], r["ratio"] or "–")
        body.append((r["case"], *numbers, wanted))
    return Table("Requests to a decision", columns, body)


def _peer_tables(rows: list[dict[str, Any]]) -> list[Table]:
    names = list(dict.fromkeys(r["scenario"] for r in rows))
    by = {(r["rule"], r["scenario"]): r for r in rows}
    notes = {r["rule"]: r["note"] for r in rows}

    def cell(row: dict[str, Any], null: bool) -> str:
        if null:
            return f"{row['rolled_back']:.1%}"
        median = "–" if row["median"] is None else f"{row['median']:,.0f}"
        return median if row["rolled_back"] > 0.9995 else f"{median} ({row['rolled_back']:.0%})"

    body = [[rule, *[cell(by[rule, n], n.startswith("A/A")) for n in names]] for rule in notes]
    said = ["A/A columns: identical models rolled back within the hour (36,000 requests). Others: median requests to "
            "rollback, and the share of rollouts that were rolled back if not all were."]  # fmt: skip
    return [
        Table(
            "Public rules on the same traffic",
            ("rule", *names),
            body,
            [*said, *[f"{k}: {v}." for k, v in notes.items()]],
        )
    ]


def _cost_table(costs: dict[str, float]) -> Table:
    said = [
        "State without keys is largest, 85 KB, when half of the buckets for first requests are taken (a unit test)."
    ]
    return Table("Cost", ("what", "measured"), list(costs.items()), said)


if __name__ == "__main__":
    sys.exit(run("rollout_evidence", measure))
