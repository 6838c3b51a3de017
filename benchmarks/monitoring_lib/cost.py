"""Rows a second on one core, memory, state and time of an update."""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.monitoring import Counts, DriftDetector, Reference, layout_of_rows

COLUMNS, CHUNK = 20, 100_000
KINDS = {"20 numbers": 0, "15 numbers, 5 texts": 5}


def table_of(rows: int, texts: int, seed: int = 0) -> pa.Table:
    """Columns as a log has them: doubles, a few of them missing, and text of eight values."""
    rng = np.random.default_rng(seed)
    words = pa.array([f"value {i}" for i in range(8)])
    columns: dict[str, Any] = {}
    for i in range(COLUMNS - texts):
        values = rng.normal(size=rows)
        columns[f"x{i:02d}"] = pa.array(values, mask=rng.random(rows) < 0.01)
    for i in range(texts):
        columns[f"c{i}"] = words.take(pa.array(rng.integers(0, 8, rows)))
    return pa.table(columns)


def days_of(rows: int, days: int = 28) -> np.ndarray:
    return np.datetime64("2024-01-01", "us") + (np.arange(rows) * days // rows).astype("timedelta64[D]")


def throughput(texts: int, rows: int, repeats: int) -> dict[str, Any]:
    """Best of several, in CPU time of this process."""
    pa.set_cpu_count(1)
    table = table_of(rows, texts)
    layout, times = layout_of_rows(table.slice(0, 50_000)), days_of(rows, 3)
    found = {}
    for name, count in (
        ("one window", lambda: Counts.of(layout, table, "w")),
        ("by day", lambda: Counts.by_day(layout, table, times)),
        ("by day and hour", lambda: Counts.by_day(layout, table, times, "hour")),
    ):
        best = np.inf
        for _ in range(repeats):
            start = time.process_time()
            count()
            best = min(best, time.process_time() - start)
        found[name] = rows / best
    return found


def memory(rows: int) -> dict[str, Any]:
    """Peak memory of counting `rows` rows in pieces, in MiB, beside what it was before the first piece."""
    pa.set_cpu_count(1)
    piece = table_of(CHUNK, 5)
    layout = layout_of_rows(piece)
    detector = DriftDetector(Reference.of_counts(Counts.of(layout, piece, "reference"), independent=True))
    detector.update(Counts.of(layout, piece, "2025-01-01"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    for at in range(max(rows // CHUNK, 1)):
        detector.update(Counts.of(layout, piece, f"2025-{1 + at // 100:05d}"))
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "peak_mib": peak, "before_mib": before, "state_kb": len(detector.to_json()) / 1000,
            "rows_per_second": rows / spent}  # fmt: skip


def states(updates: int, rows: int = 100_000) -> dict[str, Any]:
    """Sizes as JSON, and the time to judge a window, of a model with 20 columns."""
    pa.set_cpu_count(1)
    table = table_of(rows, 5)
    layout = layout_of_rows(table)
    found: dict[str, Any] = {}
    for strata in ("none", "weekday", "hour"):
        times = days_of(rows) + (np.arange(rows) % 24) * np.timedelta64(3_600_000_000, "us")
        reference = Reference.of_counts(Counts.by_day(layout, table, times, strata), strata)
        detector = DriftDetector(reference)
        windows = [Counts.by_day(layout, table.slice(0, 5000), times[:5000] + np.timedelta64(40 + day, "D"), strata)
                   for day in range(updates)]  # fmt: skip
        start = time.process_time()
        for counts in windows:
            detector.update(counts)
        spent = (time.process_time() - start) / updates
        found[strata] = {"state_kb": len(detector.to_json()) / 1000, "reference_kb": len(reference.to_json()) / 1000,
                         "update_us": 1e6 * spent}  # fmt: skip
    return found
