"""False alarms per 1,000 windows, and windows to the detection of drift."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.monitoring_lib.rules import NAMES, Peers
from benchmarks.monitoring_lib.streams import (
    COLUMNS,
    Scenario,
    Shifts,
    day_name,
    drawn_counts,
    reference_of,
    reference_rows,
)
from raymlops.monitoring import DriftDetector

OURS, OURS_NAIVE = "raymlops", "raymlops, rows called independent"
SIZES = (500, 5_000, 50_000)
QUIET = (
    Scenario("no drift"),
    Scenario("jitter 0.02 σ", jitter=0.02),
    Scenario("day effects 0.05 σ", effect=0.05),
    Scenario("day effects 0.1 σ", effect=0.1),
    Scenario("day effects 0.1 σ, heavy tails", effect=0.1, heavy=True),
    Scenario("day effects 0.1 σ, correlation 0.5 from day to day", effect=0.1, carried=0.5),
)
BEYOND = tuple(scenario.name for scenario in QUIET if scenario.heavy or scenario.carried)
"""Traffic that breaks an assumption."""
DRIFTS = (
    (QUIET[0], 0.25), (QUIET[0], 0.15), (QUIET[1], 0.25), (QUIET[2], 0.25), (QUIET[2], 0.5), (QUIET[3], 0.5),
)  # fmt: skip
LONGEST = 60


def false_alarms(seed: int, quick: bool) -> list[dict[str, Any]]:
    """Alarms of every rule in windows without drift, per scenario and window size."""
    references, windows = (2, 60) if quick else (20, 500)
    rows = []
    for number, scenario in enumerate(QUIET):
        for size in SIZES:
            rng = np.random.default_rng([seed, 1, number, size])
            ours, naive, looked = 0, 0, 0
            for _ in range(references):
                shifts = Shifts(rng, scenario)
                known = reference_rows(rng, shifts)
                detectors = [DriftDetector(reference_of(known, scenario.independent))]
                if not scenario.independent:
                    detectors.append(DriftDetector(reference_of(known, True)))
                for at in range(windows):
                    counts = drawn_counts(rng, detectors[0].reference.layout, day_name(at), size, shifts.next())
                    found = [detector.update(counts)[0].alarm for detector in detectors]
                    ours, naive, looked = ours + found[0], naive + found[-1], looked + 1
            rows.append(_row(scenario, size, OURS, ours, looked))
            if not scenario.independent:
                rows.append(_row(scenario, size, OURS_NAIVE, naive, looked))
            rows += _peers_quiet(rng, scenario, size, 10 if quick else (200, 200, 60)[SIZES.index(size)])
            print(f"... {scenario.name}, {size} rows: {ours} of {looked}", file=sys.stderr, flush=True)
    return rows


def _peers_quiet(rng: np.random.Generator, scenario: Scenario, size: int, windows: int) -> list[dict[str, Any]]:
    found, references = dict.fromkeys(NAMES, 0), 2
    for _ in range(references):
        shifts = Shifts(rng, scenario)
        peers = Peers(reference_rows(rng, shifts))
        for _ in range(windows // references):
            for name, alarm in peers.alarms(rng.normal(size=(size, COLUMNS)) + shifts.next()).items():
                found[name] += alarm
    return [_row(scenario, size, name, alarms, windows) for name, alarms in found.items()]


def _row(scenario: Scenario, size: int, rule: str, alarms: int, windows: int) -> dict[str, Any]:
    per_thousand = 1000.0 * alarms / windows
    return {"scenario": scenario.name, "rows": size, "rule": rule, "alarms": alarms, "windows": windows,
            "per_thousand": per_thousand}  # fmt: skip


def delays(seed: int, quick: bool) -> list[dict[str, Any]]:
    """Windows until an alarm when one of the columns moves, counted from the first moved window; `LONGEST` at most."""
    runs, peer_runs = (5, 2) if quick else (60, 10)
    rows = []
    for number, (scenario, drift) in enumerate(DRIFTS):
        for size in SIZES:
            rng = np.random.default_rng([seed, 2, number, size])
            found: dict[str, list[float]] = {OURS: [_ours_delay(rng, scenario, drift, size) for _ in range(runs)]}
            for _ in range(peer_runs if size < 50_000 else min(peer_runs, 3)):
                for name, delay in _peer_delays(rng, scenario, drift, size).items():
                    found.setdefault(name, []).append(delay)
            for rule, times in found.items():
                known = np.array(times)
                median = float(np.median(known))
                rows.append({"scenario": scenario.name, "drift": drift, "rows": size, "rule": rule, "runs": len(known),
                             "median": median if np.isfinite(median) else None,
                             "found": float(np.isfinite(known).mean())})  # fmt: skip
            shown = f"{scenario.name}, {drift} σ, {size} rows: {np.median(found[OURS]):g}"
            print(f"... {shown}", file=sys.stderr, flush=True)
    return rows


def _ours_delay(rng: np.random.Generator, scenario: Scenario, drift: float, size: int, quiet: int = 20) -> float:
    shifts = Shifts(rng, scenario)
    detector = DriftDetector(reference_of(reference_rows(rng, shifts), scenario.independent))
    for at in range(quiet + LONGEST):
        shift = shifts.next()
        shift[0] += drift if at >= quiet else 0.0
        counts = drawn_counts(rng, detector.reference.layout, day_name(at), size, shift)
        if detector.update(counts)[0].alarm and at >= quiet:
            return at - quiet + 1.0
    return np.inf


def _peer_delays(rng: np.random.Generator, scenario: Scenario, drift: float, size: int) -> dict[str, float]:
    shifts = Shifts(rng, scenario)
    peers = Peers(reference_rows(rng, shifts))
    found: dict[str, float] = dict.fromkeys(NAMES, np.inf)
    for at in range(LONGEST if size < 50_000 else 20):
        shift = shifts.next()
        shift[0] += drift
        for name, alarm in peers.alarms(rng.normal(size=(size, COLUMNS)) + shift).items():
            if alarm and found[name] == np.inf:
                found[name] = at + 1.0
        if np.isfinite([found[name] for name in NAMES if not name.startswith(("Evidently, data", "PSI > 0.2"))]).all():
            break
    return found
