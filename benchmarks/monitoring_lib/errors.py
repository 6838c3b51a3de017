"""Error streams with labels: false alarms per 1,000 days, and days until a rise of the error rate is noticed.

A day has 1,000 labelled predictions; the first 30 days are the reference. river's detectors see every error in turn and
have no reference: they learn from the first 30 days. NannyML's rule for estimated and realised performance: a chunk
(here a day) outside of mean ± 3 standard deviations of the reference's chunks (nannyml/thresholds.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_lib.environments import Unavailable, default_directory, ensure
from raymlops.monitoring import LossDetector, LossLevels, LossSums

RATE, PER_DAY, REFERENCE_DAYS = 0.1, 1000, 30
RIVER = "river==0.26.1"
OURS, BLOCKS, NANNYML = "raymlops", "raymlops, a day is one observation", "NannyML, mean ± 3 sd"


@dataclass(frozen=True)
class Case:
    name: str
    effect: float
    """Standard deviation of a day's error rate, as a share of it."""
    worse: float
    """The error rate is multiplied by this from the 50th day after the reference on."""


CASES = tuple(
    Case(f"{change}{days}", effect, worse)
    for effect, days in ((0.0, ""), (0.2, ", days differ by 20 %"))
    for worse, change in ((1.0, "10 % errors"), (1.5, "10 → 15 %"), (2.0, "10 → 20 %"))
)
QUIET_DAYS = 50


def error_streams(seed: int, quick: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Rows by case and rule, and why river has no numbers, if it has none."""
    runs, days = (2, 60) if quick else (10, 250)
    rows, missing = [], None
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([seed, 3, number])
        streams = np.stack([_stream(rng, case, days) for _ in range(runs)])
        found: dict[str, list[list[int]]] = {
            OURS: [_ours(stream, REFERENCE_DAYS) for stream in streams],
            BLOCKS: [_ours(stream, 1) for stream in streams],
            NANNYML: [_three_sigma(stream) for stream in streams],
        }
        try:
            found |= _river(streams)
        except Unavailable as error:
            missing = str(error)
        rows += [_row(case, rule, alarms, days) for rule, alarms in found.items()]
        print(f"... {case.name}", file=sys.stderr, flush=True)
    return rows, missing


def _stream(rng: np.random.Generator, case: Case, days: int) -> np.ndarray:
    """0 or 1 for each prediction, (labels,), int8."""
    rate = np.full(REFERENCE_DAYS + days, RATE)
    rate[REFERENCE_DAYS + QUIET_DAYS :] *= case.worse
    rate = np.clip(rate * (1.0 + case.effect * rng.normal(size=len(rate))), 0.0, 1.0)
    return (rng.random((len(rate), PER_DAY)) < rate[:, None]).astype(np.int8).reshape(-1)


def _ours(stream: np.ndarray, days_known: int) -> list[int]:
    """Days of alarms after the reference. With one day known the correlation inside days is unknown."""
    losses = stream.astype(float).reshape(-1, PER_DAY)
    known = losses[:REFERENCE_DAYS].reshape(-1)
    blocks = np.arange(len(known)) * (REFERENCE_DAYS if days_known > 1 else 10) // len(known)
    levels = LossLevels.of(known, blocks)
    detector, alarms = LossDetector(levels), []
    for day, losses_of_day in enumerate(losses[REFERENCE_DAYS:]):
        sums = LossSums.of(levels, losses_of_day, [f"{day:05d}"] * PER_DAY)
        if detector.update(sums)[0].alarm:
            alarms.append(day)
    return alarms


def _three_sigma(stream: np.ndarray) -> list[int]:
    rates = stream.reshape(-1, PER_DAY).mean(axis=1)
    known = rates[:REFERENCE_DAYS]
    outside = np.abs(rates[REFERENCE_DAYS:] - known.mean()) > 3.0 * known.std()
    return np.flatnonzero(outside).tolist()


def _river(streams: np.ndarray) -> dict[str, list[list[int]]]:
    python = ensure("river", [RIVER, "numpy"], default_directory(), shared=()).python
    with tempfile.TemporaryDirectory(prefix="raymlops-river-") as folder:
        given, answer = Path(folder) / "streams.npy", Path(folder) / "answer.json"
        np.save(given, streams)
        child = Path(__file__).with_name("river_child.py")
        done = subprocess.run([python, child, given, answer], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"river: {' '.join(done.stderr.strip().splitlines()[-2:])}")
        found = json.loads(answer.read_text())
    start = REFERENCE_DAYS * PER_DAY
    return {
        name: [sorted({(at - start) // PER_DAY for at in alarms if at >= start}) for alarms in runs]
        for name, runs in found.items()
    }


def _row(case: Case, rule: str, alarms: list[list[int]], days: int) -> dict[str, Any]:
    quiet = days if case.worse == 1.0 else QUIET_DAYS
    false = sum(day < quiet for run in alarms for day in run)
    later = [min((day for day in run if day >= QUIET_DAYS), default=np.inf) - QUIET_DAYS + 1 for run in alarms]
    median = float(np.median(later)) if case.worse > 1.0 else np.inf
    return {"case": case.name, "rule": rule, "false": false, "days": quiet * len(alarms),
            "per_thousand": 1000.0 * false / (quiet * len(alarms)),
            "median": median if np.isfinite(median) else None}  # fmt: skip
