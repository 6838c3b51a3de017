"""What storing the state of a training costs it: blocks of steps with and without a state, in turn, in one training."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Report, Table, Target, in_child, run
from raymlops.config.training import CheckpointConfig

WHAT = """One training of raymlops' own loop (AdamW, clipping, float32), on random rows. It is cut into blocks of a few
seconds. A block with a state begins with one: a copy in memory, for which the training waits, then hashing and writing
in a thread while the steps go on, then removing the state that is one too many. Blocks without one lie between. What a
state takes is the time of its block's steps less the mean of its two neighbours', which are near enough for a machine
whose speed wanders; its share is of the default interval between states. With one thread for the training there is a
core left for the writer; with as many threads as cores the two compete."""


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    batch: int
    pairs: int
    block: float
    """Seconds; several times what writing a state takes."""


FULL = Size(hidden=4096, layers=4, batch=256, pairs=16, block=8.0)
QUICK = Size(hidden=64, layers=2, batch=64, pairs=3, block=0.2)
COLUMNS = 64
STEPS = 4000
"""Of an epoch: more than are measured, for after an epoch comes a validation."""


@dataclass
class Clock:
    """Which blocks have a state, and when each step ended."""

    block: float
    blocks: int
    times: list[float] = field(default_factory=list)
    began: list[int] = field(default_factory=list)
    """For each block the index of its first step."""
    copies: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)

    def step(self) -> bool:
        """Note the end of a step; whether a block with a state begins. Odd blocks have one."""
        self.times.append(time.perf_counter())
        if self.began and self.times[-1] - self.times[self.began[-1]] < self.block:
            return False
        self.began.append(len(self.times) - 1)
        if len(self.began) > self.blocks:
            raise Enough
        return len(self.began) % 2 == 0

    def seconds_per_step(self) -> list[float]:
        """Of each block."""
        borders = list(zip(self.began, self.began[1:], strict=False))
        return [(self.times[end] - self.times[start]) / (end - start) for start, end in borders]


class Enough(Exception):
    pass


def measure_training(threads: int, size: Mapping[str, Any]) -> dict[str, Any]:
    """Train in this process; seconds per step of each block, the first and every second one without a state."""
    import torch

    from raymlops.config.training import MlpModel, TrainConfig
    from raymlops.features.state import ArraySpec
    from raymlops.store import Store
    from raymlops.training.batches import InMemory
    from raymlops.training.keeper import StateWriter
    from raymlops.training.loop import Objective, train
    from raymlops.training.models import build_model
    from raymlops.training.objective import ValidationMetric, loss_function

    shape = Size(**size)
    clock = Clock(shape.block, 2 * shape.pairs + 1)

    class Timed(StateWriter):
        def due(self) -> bool:
            return clock.step() and not self._busy()

        def save(self, *what: Any) -> None:
            began = time.perf_counter()
            super().save(*what)
            clock.copies.append(time.perf_counter() - began)

        def _write(self, *what: Any) -> None:
            super()._write(*what)
            clock.writes.append(self._writing)

    torch.set_num_threads(threads)
    draw = np.random.default_rng(0)
    numeric = draw.normal(size=(STEPS * shape.batch, COLUMNS)).astype(np.float32)
    arrays = {"numeric": numeric, "target": numeric[:, 0] - 2 * numeric[:, 1]}
    rows = InMemory("benchmark", arrays, [len(numeric)])
    model = build_model(
        MlpModel(kind="mlp", hidden=shape.hidden, layers=shape.layers),
        ArraySpec(numeric=COLUMNS, cardinalities=(), tensors={}, outputs=1),
    )
    metric = ValidationMetric.resolve("auto", "regression")
    objective = Objective("regression", loss_function("auto", "regression"), metric)
    config = TrainConfig(epochs=10_000, batch_size=shape.batch, learning_rate=1e-4, schedule="constant")
    with tempfile.TemporaryDirectory(prefix="raymlops-benchmark-") as folder:
        try:
            with Timed(Store(folder), "t", "identity", CheckpointConfig()) as states:
                train(
                    model,
                    config,
                    objective,
                    rows,
                    None,
                    seed=0,
                    device=torch.device("cpu"),
                    on_epoch=lambda report, best: None,
                    states=states,
                )
        except Enough:
            pass
        newest = max((Path(folder) / "t" / "state").iterdir()) / "tensors.safetensors"
        stored = newest.stat().st_size
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes": stored,
        "seconds_per_step": clock.seconds_per_step(),
        "copies": clock.copies,
        "writes": clock.writes,
    }


def costs(seconds_per_step: Sequence[float]) -> list[float]:
    """Of each block with a state: by how much its steps took longer than those of its two neighbours."""
    without, with_state = seconds_per_step[0::2], seconds_per_step[1::2]
    return [
        state / ((before + after) / 2) - 1
        for state, before, after in zip(with_state, without, without[1:], strict=False)
    ]


def noise(seconds_per_step: Sequence[float]) -> float:
    """What the same comparison says of blocks without a state, in which nothing differs: the mean of its size."""
    without = seconds_per_step[0::2]
    inner = zip(without[1:-1], without, without[2:], strict=False)
    return statistics.mean(abs(block / ((before + after) / 2) - 1) for block, before, after in inner)


def measure(quick: bool) -> Report:
    """The cost of storing the state of a training under way."""
    size = QUICK if quick else FULL
    cores = len(os.sched_getaffinity(0))
    raw = {n: in_child(measure_training, threads=n, size=vars(size)) for n in sorted({1, cores})}
    rows, targets = [], []
    every = CheckpointConfig().every.total_seconds()
    for threads, found in raw.items():
        cost = [size.block * share for share in costs(found["seconds_per_step"])]
        mean, error = statistics.mean(cost), statistics.stdev(cost) / len(cost) ** 0.5
        rows.append(
            [
                threads,
                found["parameters"],
                round(found["state_bytes"] / 1e6),
                statistics.mean(found["seconds_per_step"][0::2]) * 1000,
                statistics.mean(found["copies"]),
                statistics.mean(found["writes"]),
                mean,
                error,
                size.block * noise(found["seconds_per_step"]),
                f"{mean / every:.2%}",
            ]
        )
        claim = f"share of the time that states cost, {threads} thread(s), mean and two standard errors"
        targets.append(Target(claim, (mean + 2 * error) / every, 0.02, at_most=True))
    columns = (
        "threads",
        "parameters",
        "state (MB)",
        "step (ms)",
        "copy (s)",
        "write (s)",
        "cost (s)",
        "± (s.e.)",
        "noise (s)",
        f"cost, share of {every:g} s",
    )
    notes = [
        f"{size.pairs} blocks of {size.block:g} s with a state, {size.pairs + 1} without, per row.",
        "copy: for which the training waits. write: hashing and writing in the thread beside it.",
        "cost: what a state takes from the training, mean over the blocks with one, with its standard error.",
        "noise: the mean size of the same comparison between blocks without one.",
    ]
    table = Table("Blocks with a state, against blocks without", columns, rows, notes)
    return Report(
        "checkpoint", "What storing the state of a training costs", WHAT, [table], targets, {"runs": raw}, quick
    )


if __name__ == "__main__":
    raise SystemExit(run("checkpoint", measure))
