"""The writer of training states: beside the training, one at a time, whatever the disk does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from raymlops.config.training import CheckpointConfig
from raymlops.errors import StoreError
from raymlops.store import Store
from raymlops.training.keeper import StateWriter
from raymlops.training.state import DTYPES, Progress, load_state, numbers, safetensors_pieces

OFTEN = CheckpointConfig(every=timedelta(microseconds=1))


class SlowStore(Store):
    """A disk that takes what it is given when the test says so."""

    def write_pieces(self, path: str, pieces: Iterable[bytes | memoryview], sync: bool = True) -> None:
        asked.set()
        assert allowed.wait(30)
        super().write_pieces(path, pieces, sync)


class FullStore(Store):
    def write_pieces(self, path: str, pieces: Iterable[bytes | memoryview], sync: bool = True) -> None:
        raise StoreError(f"cannot write {path}: No space left on device")


asked, allowed = threading.Event(), threading.Event()


def test_a_slow_disk_makes_states_rarer_and_nothing_else(tmp_path: Path) -> None:
    asked.clear()
    allowed.clear()
    tensor = torch.zeros(3)
    with StateWriter(SlowStore(str(tmp_path)), "t", "identity", OFTEN) as writer:
        writer.save(1, {"loss_sum": tensor}, Progress(step=1), {})
        assert asked.wait(30)
        tensor += 7  # training goes on: what is being written is not touched by it
        assert not writer.due()
        assert [t.name for t in threading.enumerate()].count("state-writer") == 1
        allowed.set()
    assert writer.due()
    assert load_state(writer.store, "t", 1, "identity").tensors["loss_sum"].tolist() == [0, 0, 0]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(1, 6):
        with StateWriter(store, "t", "identity", CheckpointConfig(keep=3)) as writer:
            writer.save(number, {"loss_sum": torch.tensor(number)}, Progress(step=number), {})
    assert numbers(store, "t") == [3, 4, 5]
    assert load_state(store, "t", 5, "identity").progress == Progress(step=5)


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), StateWriter(FullStore(str(tmp_path)), "t", "identity", OFTEN) as writer:
        writer.save(1, {"loss_sum": torch.zeros(())}, Progress(), {})
    assert "the state of t could not be stored, training goes on: cannot write" in caplog.text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 4), max_size=3)), max_size=5))
def test_the_file_is_what_safetensors_writes(shapes: list[tuple[torch.dtype, list[int]]]) -> None:
    tensors = {f"t{i}": torch.randint(0, 2, shape).to(dtype) for i, (dtype, shape) in enumerate(shapes)}
    ours = b"".join(bytes(piece) for piece in safetensors_pieces(tensors))
    for read in (load(ours), load(save(tensors))):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
