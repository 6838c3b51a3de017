"""Batch order as a pure function of (snapshot hash, seed, epoch), the same from memory and from streamed shards.

Stored rows are sorted by a hash of their content, so every shard is already a uniform sample. An epoch visits the
shards in a drawn order and the rows of each shard in a drawn order, cut into batches across shard borders. That can
be produced from one array in memory or from one shard at a time, with equal results.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

Arrays = Mapping[str, np.ndarray]
Batch = dict[str, torch.Tensor]


def generator(snapshot: str, *parts: int | str) -> np.random.Generator:
    """A counter-based generator keyed by the snapshot hash and `parts`; independent of platform and call history."""
    text = "/".join([snapshot, *map(str, parts)])
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def shard_order(snapshot: str, seed: int, epoch: int, shards: int) -> np.ndarray:
    """The order in which an epoch visits its shards, int64 (shards,)."""
    return generator(snapshot, seed, epoch, "shards").permutation(shards)


def row_order(snapshot: str, seed: int, epoch: int, shard: int, rows: int) -> np.ndarray:
    """The order of the rows inside one shard, int64 (rows,)."""
    return generator(snapshot, seed, epoch, "rows", shard).permutation(rows)


def batch_bounds(rows: int, batch_size: int, workers: int = 1) -> list[tuple[int, int]]:
    """Half-open row ranges of an epoch's batches.

    The last one is kept, unless it is so small that a worker would get fewer than two rows while an earlier batch
    exists: normalisation layers cannot take a single row, and no worker may sit out a collective step.
    """
    bounds = [(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < 2 * workers:
        bounds.pop()
    return bounds


class Rows(Protocol):
    """One part of a snapshot, ready to be read in batches."""

    @property
    def snapshot(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def epoch(
        self, seed: int, epoch: int, batch_size: int, rank: int, workers: int, start: int = 0, most: int = 0
    ) -> Iterator[Batch]:
        """This worker's share of every batch of the epoch, in the drawn order.

        The first `start` batches are left out without being read: streamed shards that hold nothing else are not even
        opened. `most` is the largest number of workers that the run may have (`workers` when 0): batches are cut for
        that many, so that an epoch has as many steps whatever the number of workers is by now.
        """
        ...

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """All rows in stored order, for evaluation."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Arrays of equal length (usually views into the object store); `shard_rows` are the stored shards' lengths."""

    snapshot: str
    arrays: Arrays
    shard_rows: Sequence[int]
    _tensors: Batch = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tensors", as_tensors(self.arrays))

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def epoch(
        self, seed: int, epoch: int, batch_size: int, rank: int = 0, workers: int = 1, start: int = 0, most: int = 0
    ) -> Iterator[Batch]:
        starts = np.concatenate([[0], np.cumsum(self.shard_rows)])
        drawn = shard_order(self.snapshot, seed, epoch, len(self.shard_rows))
        pieces = [starts[s] + row_order(self.snapshot, seed, epoch, int(s), self.shard_rows[s]) for s in drawn]
        order = torch.from_numpy(np.concatenate(pieces))
        for low, high in batch_bounds(self.rows, batch_size, max(workers, most))[start:]:
            index = order[low + rank : high : workers]
            yield {name: tensor.index_select(0, index) for name, tensor in self._tensors.items()}

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        # Cut at shard borders, as streaming does: matrix products of other sizes round their last bits differently.
        start = 0
        for length in self.shard_rows:
            for low in range(start, start + length, batch_size):
                high = min(low + batch_size, start + length)
                yield {name: tensor[low:high] for name, tensor in self._tensors.items()}
            start += length


@dataclass(frozen=True)
class Streamed:
    """Shards read one ahead of their use; holds about three shards in memory, whatever the size of the data."""

    snapshot: str
    load: Callable[[int], Arrays]
    shard_rows: Sequence[int]

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def epoch(
        self, seed: int, epoch: int, batch_size: int, rank: int = 0, workers: int = 1, start: int = 0, most: int = 0
    ) -> Iterator[Batch]:
        bounds = batch_bounds(self.rows, batch_size, max(workers, most))[start:]
        if not bounds:
            return
        drawn = [int(s) for s in shard_order(self.snapshot, seed, epoch, len(self.shard_rows))]
        skipped = bounds[0][0]  # rows of batches that are left out
        while skipped >= self.shard_rows[drawn[0]]:
            skipped -= self.shard_rows[drawn.pop(0)]
        shuffled = self._shuffled(drawn, seed, epoch, skipped)
        for batch in _cut(shuffled, [high - low for low, high in bounds]):
            yield {name: tensor[rank::workers] for name, tensor in batch.items()} if workers > 1 else batch

    def _shuffled(self, drawn: Sequence[int], seed: int, epoch: int, skipped: int) -> Iterator[Batch]:
        """Shards with their rows in the drawn order; without the first `skipped` rows of the first one."""
        for shard, tensors in zip(drawn, self._read_ahead(drawn), strict=True):
            taken = _take(tensors, row_order(self.snapshot, seed, epoch, shard, self.shard_rows[shard]))
            yield {name: tensor[skipped:] for name, tensor in taken.items()} if skipped else taken
            skipped = 0

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        for tensors in self._read_ahead(list(range(len(self.shard_rows)))):
            length = len(next(iter(tensors.values())))
            for low in range(0, length, batch_size):
                yield {name: tensor[low : low + batch_size] for name, tensor in tensors.items()}

    def _read_ahead(self, shards: Sequence[int]) -> Iterator[Batch]:
        """Shards in the given order, the next one loading in a thread while the current one is used."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=1)
        stopped = threading.Event()

        def hand_over(item: Batch | BaseException) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
            return None

        def read() -> None:
            try:
                for shard in shards:
                    hand_over(as_tensors(self.load(shard)))
                    if stopped.is_set():
                        return
            except BaseException as error:
                hand_over(error)

        thread = threading.Thread(target=read, name="shard-reader", daemon=True)
        thread.start()
        try:
            for _ in shards:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()


def join(first: InMemory | Streamed, second: InMemory | Streamed) -> InMemory | Streamed:
    """Two parts as one: the shards of the first, then those of the second. Both are of the same kind."""
    lengths = [*first.shard_rows, *second.shard_rows]
    if isinstance(first, InMemory) and isinstance(second, InMemory):
        both = {name: np.concatenate([array, second.arrays[name]]) for name, array in first.arrays.items()}
        return InMemory(first.snapshot, both, lengths)
    assert isinstance(first, Streamed) and isinstance(second, Streamed)
    load_first, load_second, border = first.load, second.load, len(first.shard_rows)

    def load(shard: int) -> Arrays:
        return load_first(shard) if shard < border else load_second(shard - border)

    return Streamed(first.snapshot, load, lengths)


def as_tensors(arrays: Arrays) -> Batch:
    """Tensors over the same memory. Object-store memory is read-only; nothing here or in the loop writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _take(tensors: Batch, order: np.ndarray) -> Batch:
    index = torch.from_numpy(order)
    return {name: tensor.index_select(0, index) for name, tensor in tensors.items()}


def _cut(pieces: Iterator[Batch], sizes: Sequence[int]) -> Iterator[Batch]:
    """Pieces of any length re-cut into batches of the given sizes; rows beyond the last size are left out."""
    held: list[Batch] = []
    available = 0
    for size in sizes:
        while available < size:
            piece = next(pieces)
            held.append(piece)
            available += len(next(iter(piece.values())))
        wanted, taken = size, []
        while wanted:
            length = len(next(iter(held[0].values())))
            if length <= wanted:
                taken.append(held.pop(0))
                wanted -= length
            else:
                taken.append({name: tensor[:wanted] for name, tensor in held[0].items()})
                held[0] = {name: tensor[wanted:] for name, tensor in held[0].items()}
                wanted = 0
        available -= size
        yield taken[0] if len(taken) == 1 else {name: torch.cat([t[name] for t in taken]) for name in taken[0]}
