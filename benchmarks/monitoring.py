"""Do the monitors cry wolf, how soon do they see a wolf, what do they cost, and how do public rules do?"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.common import Report, Table, Target, in_child, run
from benchmarks.monitoring_lib.cost import KINDS, memory, states, throughput
from benchmarks.monitoring_lib.drifts import BEYOND, LONGEST, OURS, SIZES, delays, false_alarms
from benchmarks.monitoring_lib.errors import RIVER, error_streams
from benchmarks.monitoring_lib.plot import plot
from benchmarks.monitoring_lib.rules import NAMES

SEED = 20_261_105
WHAT = f"""\
Simulated traffic, seed {SEED}: 20 independent normal columns, a reference of 100,000 rows in 28 days, a window is a
day. raymlops is set to a mean of 1,000 windows or more between false alarms, everything else at its defaults. Public
rules are the documented ones, computed on the same kind of rows; each judges a window by itself. Error streams: 1,000
labels a day, 30 reference days, {RIVER} in an environment of its own. Cost: CPU time on one core."""


def measure(quick: bool) -> Report:
    """False alarms, delays and cost of the monitors, and of public rules on the same traffic."""
    quiet, moved = false_alarms(SEED, quick), delays(SEED, quick)
    errors, missing = error_streams(SEED, quick)
    raw = {
        "quiet": quiet,
        "delays": moved,
        "errors": errors,
        "river_missing": missing,
        "throughput": {
            name: in_child(throughput, texts=texts, rows=200_000 if quick else 1_000_000, repeats=2 if quick else 7)
            for name, texts in KINDS.items()
        },
        "memory": [in_child(memory, rows=rows) for rows in ((10**5, 10**6) if quick else (10**5, 10**6, 10**7, 10**8))],
        "states": in_child(states, updates=20 if quick else 200),
        "seed": SEED,
    }
    if not quick:
        plot(quiet, moved, errors)
    return report(raw, quick)


def report(raw: dict[str, Any], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    ours = [row for row in raw["quiet"] if row["rule"] == OURS and row["scenario"] not in BEYOND]
    plain = max(row["per_thousand"] for row in ours if "day" not in row["scenario"])
    days = max(row["per_thousand"] for row in ours if "day" in row["scenario"])
    medians = {
        (row["scenario"], row["drift"], row["rows"]): row["median"] for row in raw["delays"] if row["rule"] == OURS
    }
    peaks = [row["peak_mib"] for row in raw["memory"]]
    size = max(row["reference_kb"] + row["state_kb"] for row in raw["states"].values())
    slowest = min(rate for rates in raw["throughput"].values() for rate in rates.values())
    targets = [
        Target("false alarms per 1,000 windows, no drift and benign jitter, worst size", plain, 1.0, True),
        Target("false alarms per 1,000 windows, day effects, worst size", days, 1.0, True),
        Target("windows to 0.25 σ in 1 of 20 columns, 5,000 rows", _at(medians, 0.25), 1.0, True),
        Target("windows to 0.15 σ in 1 of 20 columns, 5,000 rows", _at(medians, 0.15), 3.0, True),
        Target("rows a second on one core, 20 columns, slowest way", slowest, 1e6, False),
        Target("peak memory of the longest stream / of the shortest", peaks[-1] / peaks[0], 1.05, True),
        Target("reference and state of 20 columns, largest strata, KB", size, 50.0, True),
    ]  # fmt: skip
    tables = [_quiet_table(raw["quiet"]), _delay_table(raw["delays"]), *_error_tables(raw), *_cost_tables(raw)]
    return Report("monitoring", "Monitors", WHAT, tables, targets, raw, quick)


def _at(medians: dict[tuple[str, float, int], float | None], drift: float) -> float:
    return medians["no drift", drift, 5_000] or float(LONGEST)


def _quiet_table(rows: list[dict[str, Any]]) -> Table:
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    by = {(row["rule"], row["scenario"], row["rows"]): row["per_thousand"] for row in rows}
    body = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = [[by.get((rule, scenario, size)) for size in SIZES] for scenario in scenarios]
        body.append([rule, *(" / ".join("–" if v is None else f"{v:.3g}" for v in cell) for cell in cells)])
    looked = {row["rule"]: row["windows"] for row in rows}
    notes = [
        f"Windows of {' / '.join(f'{size:,}' for size in SIZES)} rows. raymlops: {looked[OURS]:,} windows a number "
        "over many references; public rules: 200 / 200 / 60 windows over two references, so their smallest number "
        "above 0 is 5 / 5 / 17.",
        "The last two columns break an assumption, that effects of days are normal and that they are independent of "
        "each other (stratify references of such traffic).",
    ]
    return Table("False alarms per 1,000 windows", ("rule", *scenarios), body, notes)


def _delay_table(rows: list[dict[str, Any]]) -> Table:
    cases = list(dict.fromkeys((row["scenario"], row["drift"]) for row in rows))
    by = {(row["rule"], row["scenario"], row["drift"], row["rows"]): row["median"] for row in rows}

    def cell(rule: str, scenario: str, drift: float) -> str:
        found = (by.get((rule, scenario, drift, size)) for size in SIZES)
        return " / ".join("–" if value is None else f"{value:g}" for value in found)

    body = [[rule, *(cell(rule, *case) for case in cases)] for rule in (OURS, *NAMES)]
    columns = [f"{drift} σ, {scenario}" for scenario, drift in cases]
    note = (
        f"Median windows of {' / '.join(f'{size:,}' for size in SIZES)} rows until an alarm after one of 20 columns "
        f"moved; –: more than {LONGEST} (public rules with 50,000 rows: 20). Rules that alarm without drift are fast "
        "here for no reason of theirs."
    )
    return Table("Windows to the detection of drift", ("rule", *columns), body, [note])


def _error_tables(raw: dict[str, Any]) -> list[Table]:
    rows = raw["errors"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    by = {(row["rule"], row["case"]): row for row in rows}
    body = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = [by[rule, case] for case in cases]
        shown = [f"{c['per_thousand']:.3g}" if "→" not in c["case"] else _delay(c) for c in cells]
        body.append([rule, *shown])
    notes = ["Constant error rate: false alarms per 1,000 days. Rising: median days to an alarm, and false alarms per "
             "1,000 days before it in brackets; –: not in 200 days. raymlops tolerates 10 % more errors."]  # fmt: skip
    if raw["river_missing"]:
        notes.append(f"river is not shown: {raw['river_missing']}.")
    return [Table("Error rates with labels", ("rule", *cases), body, notes)]


def _delay(row: dict[str, Any]) -> str:
    return f"{'–' if row['median'] is None else format(row['median'], 'g')} ({row['per_thousand']:.3g})"


def _cost_tables(raw: dict[str, Any]) -> list[Table]:
    ways = list(next(iter(raw["throughput"].values())))
    speed = [(name, *(rates[way] for way in ways)) for name, rates in raw["throughput"].items()]
    memory_rows = [
        (row["rows"], row["before_mib"], row["peak_mib"], row["state_kb"], row["rows_per_second"])
        for row in raw["memory"]
    ]
    sizes = [(name, *(row[key] for key in ("reference_kb", "state_kb", "update_us")))
             for name, row in raw["states"].items()]  # fmt: skip
    return [
        Table("Rows counted a second on one core", ("columns", *ways), speed),
        Table("Memory of a stream counted in pieces of 100,000 rows",
              ("rows", "before, MiB", "peak, MiB", "state, KB", "rows a second, judged too"), memory_rows),
        Table("State of a model with 20 columns", ("strata", "reference, KB", "state, KB", "judging a window, µs"),
              sizes),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("monitoring", measure))
