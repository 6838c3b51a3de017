"""What a version is compared with: inputs with training rows, answers and losses with its holdout, shard by shard."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from label_cases import config_of

from raymlops.monitoring import DriftDetector, Reference
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.reference_counts import InputCounts
from raymlops.monitoring.reference_making import PartLosses, _levels, _watched

TRAIN, HOLDOUT = 8_000, 2_000
CONFIG = config_of(gate={"slices": ["zone"]})


def rows(n: int, seed: int, first: str = "2026-01-01", days: int = 20) -> pa.Table:
    draw = np.random.default_rng(seed)
    times = np.datetime64(first, "us") + draw.integers(0, days, n).astype("timedelta64[D]")
    return pa.table({"distance": draw.normal(size=n), "zone": draw.choice(["a", "b", "c"], n), "when": times,
                     "fare": draw.normal(size=n)})  # fmt: skip


def answers(table: pa.Table, spread: float, seed: int = 5) -> np.ndarray:
    """An over-fitted model: what it says to rows that it knows is as widely spread as their labels."""
    return spread * np.random.default_rng(seed).normal(size=table.num_rows)


def made(train: list[pa.Table], holdout: list[pa.Table], said: dict[str, list[np.ndarray]]) -> Reference:
    counts, notes = InputCounts(CONFIG, ["distance", "zone"]), list[str]()
    for table, given in zip(holdout, said["holdout"], strict=True):
        counts.answered(table, given)
    counts.choose_cells(train, notes)
    for table, given in zip(train, said["train"], strict=True):
        counts.fitted(table, given, inputs=True)
    found = counts.reference(notes)
    assert found is not None and notes == []
    return found


def split(table: Any, at: list[int]) -> list[Any]:
    edges = [0, *at, len(table)]
    return [table[a:b] for a, b in pairwise(edges)]


@pytest.fixture(scope="module")
def world() -> tuple[pa.Table, pa.Table, np.ndarray, np.ndarray]:
    train, holdout = rows(TRAIN, 0), rows(HOLDOUT, 1, "2026-01-21", 7)
    return train, holdout, answers(train, 1.0), answers(holdout, 0.5)


def test_shards_of_any_size_make_the_same_reference(world: Any) -> None:
    train, holdout, known, fresh = world
    whole = made([train], [holdout], {"train": [known], "holdout": [fresh]})
    cuts, few = [100, 101, 3000], [1999]
    parts = {"train": split(known, cuts), "holdout": split(fresh, few)}
    assert made(split(train, cuts), split(holdout, few), parts).to_json() == whole.to_json()
    losses = []
    for at in ([], cuts):
        kept = {part: PartLosses(CONFIG, ["zone"]) for part in ("holdout", "train", "validation")}
        for table, given in zip(split(train, at), split(known, at), strict=True):
            kept["train"].add(table, pd.DataFrame({"prediction": given}))
        kept["holdout"].add(holdout, pd.DataFrame({"prediction": fresh}))
        levels, scale, values = _levels(CONFIG, kept, [])
        assert levels is not None and values == {"zone": ["a", "b", "c"]}
        losses.append((levels.to_dict(), scale))
    assert losses[0] == losses[1]


def test_answers_are_compared_with_those_to_fresh_rows(world: Any) -> None:
    train, holdout, known, fresh = world
    reference = made([train], [holdout], {"train": [known], "holdout": [fresh]})
    assert reference.layout.totals(reference.cells).tolist() == [[TRAIN, TRAIN, HOLDOUT]] and reference.days == 20
    detector = DriftDetector(reference)
    for day in range(20):
        today = rows(400, 100 + day, f"2026-02-{day + 1:02d}", 1)
        watched = today.select(["distance", "zone"]).append_column("prediction", pa.array(answers(today, 0.5, day)))
        times = today.column("when").to_numpy()
        [finding] = detector.update(Counts.by_day(reference.layout, watched, times))
        assert not finding.alarm


def test_what_is_not_logged_is_left_out_and_said() -> None:
    def watched(**changes: Any) -> tuple[tuple[list[str], list[str]], list[str]]:
        notes: list[str] = []
        return _watched(config_of(**changes), ["distance", "zone"], notes), notes

    assert watched() == ((["distance", "zone"], []), [])
    found, notes = watched(gate={"slices": ["zone", "airport"]})
    assert found == (["distance", "zone"], ["zone"]) and len(notes) == 1 and "slices not watched: airport" in notes[0]
    found, notes = watched(gate={"slices": ["zone"]}, serving={"log": {"redact": ["zone"]}})
    assert found == (["distance"], []) and [note.partition(" ")[0] for note in notes] == ["inputs", "slices"]
    assert watched(monitoring={"drift": {"columns": ["zone"]}})[0][0] == ["zone"]
