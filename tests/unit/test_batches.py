"""Batch order: a function of snapshot, seed and epoch; the same from memory and from shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.training.batches import InMemory, Streamed, batch_bounds, join

shard_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def parts(lengths: list[int]) -> tuple[InMemory, Streamed]:
    total = sum(lengths)
    arrays = {"numeric": np.arange(2 * total, dtype=np.float32).reshape(total, 2), "target": np.arange(total)}
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def load(shard: int) -> dict[str, np.ndarray]:
        return {name: array[starts[shard] : starts[shard + 1]] for name, array in arrays.items()}

    return InMemory("snapshot", arrays, lengths), Streamed("snapshot", load, lengths)


def same(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(torch.equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in x)


@settings(max_examples=100, deadline=None)
@given(shard_lengths, st.integers(1, 50), st.integers(0, 3), st.integers(1, 3))
def test_streaming_gives_the_batches_that_memory_gives(lengths: list[int], size: int, epoch: int, workers: int) -> None:
    memory, streamed = parts(lengths)
    for rank in range(workers):
        ours = list(memory.epoch(5, epoch, size, rank, workers))
        assert same(ours, list(streamed.epoch(5, epoch, size, rank, workers)))
    assert same(list(memory.ordered(7)), list(streamed.ordered(7)))
    assert torch.cat([b["target"] for b in memory.ordered(7)]).tolist() == list(range(sum(lengths)))


@settings(max_examples=100, deadline=None)
@given(shard_lengths, st.integers(1, 50), st.integers(1, 4))
def test_an_epoch_visits_every_row_once_shared_among_workers(lengths: list[int], size: int, workers: int) -> None:
    memory, _ = parts(lengths)
    seen = [b["target"] for rank in range(workers) for b in memory.epoch(0, 1, size, rank, workers)]
    values = torch.cat(seen).tolist()
    assert len(values) == len(set(values))
    assert len(values) == batch_bounds(sum(lengths), size, workers)[-1][1]
    assert sum(lengths) - len(values) < max(2 * workers, 2)  # at most a remainder too small for every worker


def test_order_depends_on_snapshot_seed_and_epoch_only() -> None:
    memory, _ = parts([30, 20])
    first = list(memory.epoch(1, 1, 8))
    for _ in memory.epoch(9, 9, 8):
        pass
    assert same(first, list(memory.epoch(1, 1, 8)))
    other = InMemory("another snapshot", memory.arrays, memory.shard_rows)
    for changed in (memory.epoch(2, 1, 8), memory.epoch(1, 2, 8), other.epoch(1, 1, 8)):
        assert not same(first, list(changed))


def test_order_is_fixed_across_versions_and_machines() -> None:
    memory, _ = parts([6, 4])
    order = torch.cat([b["target"] for b in memory.epoch(7, 1, 4)]).tolist()
    assert order == [6, 9, 8, 7, 1, 0, 5, 4, 2, 3]


@settings(max_examples=100, deadline=None)
@given(shard_lengths, st.integers(1, 50), st.integers(1, 3), st.integers(0, 2), st.integers(0, 30))
def test_an_epoch_can_start_at_any_step(lengths: list[int], size: int, workers: int, spare: int, start: int) -> None:
    memory, streamed = parts(lengths)
    opened: list[int] = []
    load = streamed.load
    counting = Streamed("snapshot", lambda shard: (opened.append(shard), load(shard))[1], lengths)
    for rank in range(workers):
        whole = list(memory.epoch(5, 1, size, rank, workers, 0, workers + spare))
        assert same(whole[start:], list(memory.epoch(5, 1, size, rank, workers, start, workers + spare)))
        opened.clear()
        assert same(whole[start:], list(counting.epoch(5, 1, size, rank, workers, start, workers + spare)))
        if len(whole) <= start:
            assert opened == []


def test_shards_before_the_start_are_not_read() -> None:
    opened: list[int] = []
    arrays = {"target": np.arange(10)}
    streamed = Streamed("snapshot", lambda shard: (opened.append(shard), arrays)[1], [10] * 6)
    list(streamed.epoch(1, 1, 4, start=8))  # 32 rows on: three shards are over
    assert len(opened) == len(set(opened)) == 3


def test_joined_parts_keep_their_shards() -> None:
    (first, streamed_first), (second, streamed_second) = parts([5, 4]), parts([3])
    both, streamed = join(first, second), join(streamed_first, streamed_second)
    assert both.rows == streamed.rows == 12
    assert same(list(both.epoch(1, 2, 5)), list(streamed.epoch(1, 2, 5)))


def test_a_shard_that_cannot_be_read_ends_the_epoch_with_its_error() -> None:
    def load(shard: int) -> dict[str, np.ndarray]:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Streamed("s", load, [4]).epoch(0, 1, 2))


@pytest.mark.parametrize(
    ("rows", "size", "workers", "last"), [(10, 4, 1, (8, 10)), (9, 4, 1, (4, 8)), (11, 4, 2, (4, 8)), (1, 4, 1, (0, 1))]
)
def test_remainders_too_small_for_every_worker_are_left_out(
    rows: int, size: int, workers: int, last: tuple[int, int]
) -> None:
    assert batch_bounds(rows, size, workers)[-1] == last
