"""How fast rows reach a training step, and how much memory that takes."""

from __future__ import annotations

import statistics
import sys
import tempfile
from typing import Any

from benchmarks.common import Report, Table, Target, in_child, run
from benchmarks.feeds import (
    CATEGORICAL,
    COLUMNS,
    CONTENDERS,
    FLOOR,
    LOADERS,
    NUMERIC,
    OURS,
    STREAMED,
    build,
    epoch_peaks,
    generate,
    rate,
)

WHAT = f"""\
Every contender reads the same encoded snapshot ({NUMERIC} numeric and {CATEGORICAL} categorical columns, one target)
in batches and hands each batch to a step. The touching step adds up every tensor; the training step is a real one of
the built-in network (64 wide, 2 layers, AdamW). Whole epochs after a few batches of warm-up, one torch thread, every
contender in a process of its own; the first three in three interleaved runs, of which the median counts."""


def measure(quick: bool) -> Report:
    """Rows per second into a training step, and peak memory."""
    rows, seconds, repeats = (60_000, 0.5, 1) if quick else (3_000_000, 4.0, 3)
    runs = [("touch", 512)] if quick else [("touch", 512), ("touch", 4096), ("train", 512)]
    with tempfile.TemporaryDirectory(prefix="raymlops-benchmark-") as work:
        in_child(generate, work=work, rows=rows)
        built = in_child(build, work=work)
        kept = {"work": work, "digest": built["digest"]}
        memory = {
            "build_snapshot": built,
            "share_parts, one epoch in memory": in_child(epoch_peaks, stream=False, **kept),
            "one epoch streamed": in_child(epoch_peaks, stream=True, **kept),
        }
        speeds = []
        for step, size in runs:
            found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            for repeat in range(repeats):  # in turn, so that a slow minute of the machine hits everyone
                for name in CONTENDERS if repeat == 0 else (FLOOR, OURS, STREAMED):
                    result = in_child(rate, contender=name, step=step, batch_size=size, seconds=seconds, **kept)
                    found[name].append(result["rows_per_second"])
            speeds.append((step, size, {name: statistics.median(rates) for name, rates in found.items()}))
    return _report(rows, speeds, memory, quick)


def _report(rows: int, speeds: list[tuple[str, int, dict[str, float]]], memory: dict[str, Any], quick: bool) -> Report:
    tables, targets = [], []
    for step, size, found in speeds:
        floor, ours, loader = found[FLOOR], found[OURS], max(found[name] for name in LOADERS)
        lines = [[name, speed, speed / floor, speed / loader] for name, speed in found.items()]
        kind = {"touch": "a step that touches every batch", "train": "a training step"}[step]
        header = ("contender", "rows/s", "× floor", "× better DataLoader")
        tables.append(Table(f"{rows:,} rows into {kind}, {size} at a time", header, lines))
        if step == "touch":
            targets += [
                Target(f"in memory / floor, batches of {size}", ours / floor, 0.9, False),
                Target(f"in memory / better DataLoader, batches of {size}", ours / loader, 10, False),
            ]
    lines = [
        [name, f["private"] / 2**30, f["driver"] / 2**30, f["object_store"] / 2**30, f["processes"], f["seconds"]]
        for name, f in memory.items()
    ]
    built = memory["build_snapshot"]
    tables.append(
        Table(
            f"Peak memory: {rows:,} rows × {COLUMNS} columns",
            ("step", "private GiB, all processes", "of it driver", "object store GiB", "processes", "seconds"),
            lines,
            [
                f"Source: parquet, {built['source_bytes'] / 2**20:,.0f} MiB in 12 files; encoded parts "
                f"{built['encoded_bytes'] / 2**20:,.0f} MiB.",
                "Private memory: resident pages that belong to one process alone, summed over the driver, Ray's own "
                "processes and its workers, sampled ten times a second. The object store column is what the raylet "
                "itself touched, with some 20 MiB of libraries: encoded parts that workers put there come on top.",
            ],
        )
    )
    return Report(
        "ingest",
        "Feeding a training step: rows per second and memory",
        WHAT,
        tables,
        targets,
        {"rows": rows, "speeds": speeds, "memory": memory},
        quick,
    )


if __name__ == "__main__":
    sys.exit(run("ingest", measure))
