"""A training that is killed anywhere and started again ends with the weights that it would have had."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from config_cases import smallest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raymlops.config.tree import Config
from raymlops.features.state import ArraySpec
from raymlops.store import Store, StoreError
from raymlops.training.batches import Batch, InMemory, Streamed
from raymlops.training.checkpoint import load_checkpoint
from raymlops.training.loop import Target
from raymlops.training.state import DIRECTORY, STATE, TENSORS, numbers
from raymlops.training.trial import TrialContext, fit

SPEC = ArraySpec(numeric=3, cardinalities=(4,), tensors={}, outputs=1)
STEPS, CHECKS = 8, 3
"""Batches of an epoch: 150 rows in batches of 20, then three shards of validation rows."""


def batches(epochs: int, more: int = 0) -> int:
    return epochs * (STEPS + CHECKS) + more


class Unusual(nn.Module):
    """Running statistics, tied weights, noise of its own, and a buffer that no state dict holds."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.second.weight
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = self.norm(self.first(inputs["numeric"]))
        if self.training:
            self.steps += 1
            hidden = hidden + torch.randn(hidden.shape) / (1 + self.steps)
        out: torch.Tensor = self.last(self.again(torch.relu(self.second(hidden)))).squeeze(1)
        return out


class Killed(BaseException):
    """What a test can do of a SIGKILL: not even `except Exception` sees it."""


@dataclass
class Mortal:
    """Rows whose reader dies after so many batches, validation included. Waits before each for the state that is being
    written, so that every step leaves one."""

    real: InMemory | Streamed
    countdown: list[int]

    @property
    def snapshot(self) -> str:
        return self.real.snapshot

    @property
    def rows(self) -> int:
        return self.real.rows

    def epoch(self, *where: int) -> Iterator[Batch]:
        return self._counted(self.real.epoch(*where))

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        return self._counted(self.real.ordered(batch_size))

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            for thread in threading.enumerate():
                if thread.name == "state-writer":
                    thread.join()
            self.countdown[0] -= 1
            if self.countdown[0] < 0:
                raise Killed
            yield batch


def data(count: int, seed: int, streamed: bool) -> InMemory | Streamed:
    draw = np.random.default_rng(seed)
    arrays = {
        "numeric": draw.normal(size=(count, 3)).astype(np.float32),
        "categorical": draw.integers(0, 4, size=(count, 1)).astype(np.int32),
    }
    arrays["target"] = (arrays["numeric"] @ np.array([1.0, -2.0, 0.5]) + arrays["categorical"][:, 0]).astype(np.float32)
    lengths = [count // 3, count // 3, count - 2 * (count // 3)]
    if not streamed:
        return InMemory("snapshot", arrays, lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Streamed("snapshot", lambda i: {n: a[starts[i] : starts[i + 1]] for n, a in arrays.items()}, lengths)


def configured(train: dict[str, Any], unusual: bool = False) -> Config:
    factory = {"kind": "factory", "factory": "user:build"}
    return smallest(
        model=factory if unusual else {"kind": "mlp", "hidden": 8, "dropout": 0.2},
        train={"epochs": 4, "batch_size": 20, "learning_rate": 0.02, "checkpoint": {"every": 1e-6}, **train},
    )


@dataclass
class Training:
    """One directory in which a training is started as often as needed."""

    folder: Path
    config: Config
    streamed: bool = False
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(str(self.folder))

    def start(self, lives: int = 10**6, refit: bool = False) -> str | None:
        """Train until the end or the death; the hash of the weights, None when it died."""
        snapshot: Any = SimpleNamespace(hash="snapshot")
        context = TrialContext(self.config, SPEC, Target(), snapshot, self.store, "run", factory=lambda spec: Unusual())
        countdown = [lives]
        rows = Mortal(data(150, 0, self.streamed), countdown)
        validation = Mortal(data(40, 1, self.streamed), countdown)
        torch.manual_seed(np.random.default_rng().integers(2**62))  # whatever the process drew before
        try:
            fit(self.config, context, rows, None if refit else validation, "run/t", self.report)
        except Killed:
            return None
        digest: str = load_checkpoint(self.store, "run/t")[1]["weights_sha256"]
        return digest

    def report(self, metrics: dict[str, Any]) -> None:
        seen = {key: metrics[key] for key in ("train_loss", "metric", "learning_rate", "last")}
        # An epoch that was reported before the kill is reported again as it was.
        assert self.reports.setdefault(metrics["epoch"], seen) == seen

    def states(self) -> list[Path]:
        return [self.folder / "run/t" / DIRECTORY / f"{n:08d}" for n in numbers(self.store, "run/t")]


@settings(max_examples=25, deadline=None)
@given(
    train=st.fixed_dictionaries(
        {
            "optimizer": st.sampled_from(["adamw", "adam", "sgd"]),
            "schedule": st.sampled_from(["constant", "cosine", "onecycle"]),
            "early_stopping": st.sampled_from([None, {"patience": 1, "min_delta": 0.05}, {"patience": 1}]),
            "precision": st.sampled_from(["float32", "bfloat16"]),
        }
    ),
    unusual=st.booleans(),
    streamed=st.booleans(),
    refit=st.booleans(),
    lives=st.lists(st.integers(0, 45), min_size=1, max_size=3),
)
def test_killed_anywhere_it_ends_with_the_same_bits(
    train: dict[str, Any], unusual: bool, streamed: bool, refit: bool, lives: list[int]
) -> None:
    config = configured(train, unusual)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole, killed = Training(Path(one), config, streamed), Training(Path(two), config, not streamed)
        expected = whole.start(refit=refit)
        for count in lives:
            killed.start(count, refit)
        assert killed.start(refit=refit) == expected
        assert killed.reports == whole.reports


def test_states_do_not_change_a_training(tmp_path: Path) -> None:
    never = configured({"checkpoint": {"every": 3600}})
    often, seldom = Training(tmp_path / "often", configured({})), Training(tmp_path / "seldom", never)
    assert often.start() == seldom.start()
    assert len(often.states()) == 2
    assert seldom.states() == []


def test_a_training_goes_on_where_it_was_and_not_before(tmp_path: Path) -> None:
    training = Training(tmp_path, configured({}))
    training.start(lives=batches(2, 5))
    assert int(training.states()[-1].name) == 2 * (STEPS + 1) + 5
    assert training.start(lives=STEPS - 5) is None  # the rest of the third epoch, then its validation kills
    assert sorted(training.reports) == [1, 2]
    assert training.start(lives=CHECKS + batches(1)) is not None  # that validation and one epoch with its own
    assert sorted(training.reports) == [1, 2, 3, 4]


def truncate(state: Path) -> None:
    whole = (state / TENSORS).read_bytes()
    (state / TENSORS).write_bytes(whole[: len(whole) // 2])


def flip(state: Path) -> None:
    whole = bytearray((state / TENSORS).read_bytes())
    whole[-3] ^= 1
    (state / TENSORS).write_bytes(bytes(whole))


def lose(name: str) -> Any:
    return lambda state: (state / name).unlink()


def edit(state: Path) -> None:
    (state / STATE).write_text((state / STATE).read_text().replace('"epoch": 3', '"epoch": 2'))


def garble(state: Path) -> None:
    (state / STATE).write_text("{")


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (truncate, "tensors.safetensors is damaged: hash"),
        (flip, "tensors.safetensors is damaged: hash"),
        (lose(TENSORS), "tensors.safetensors is missing, its writing was not finished"),
        (lose(STATE), "state.json is missing, its writing was not finished"),
        (edit, "state.json is damaged: its hash"),
        (garble, "state.json is damaged: Expecting"),
    ],
)
def test_of_a_poisoned_state_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, poison: Any, reason: str
) -> None:
    expected = Training(tmp_path / "whole", configured({})).start()
    training = Training(tmp_path / "poisoned", configured({}))
    training.start(lives=batches(2, 5))
    before, newest = training.states()
    poison(newest)
    with caplog.at_level(logging.INFO):
        assert training.start() == expected
    assert f"{newest.name} is not used: " in caplog.text
    assert reason in caplog.text
    assert f"goes on in epoch 3 after {int(before.name) - 2 * (STEPS + 1)} steps" in caplog.text


def test_a_state_that_the_store_does_not_give_now_is_not_thrown_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, configured({}))
    training.start(lives=batches(2, 5))
    newest, real = training.states()[-1], Store.read

    def read(store: Store, path: str) -> bytes:
        if path.endswith(f"{newest.name}/{TENSORS}"):
            raise StoreError("timed out")
        return real(store, path)

    monkeypatch.setattr(Store, "read", read)
    training.start(lives=0)
    assert f"{newest.name} is not used: timed out" in caplog.text
    assert training.states()[-1] == newest


def test_when_all_is_poisoned_it_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = Training(tmp_path / "whole", configured({})).start()
    training = Training(tmp_path / "poisoned", configured({}))
    training.start(lives=batches(2, 5))
    (training.folder / "run/t/checkpoint.json").unlink()  # the best weights so far, which both states need
    assert training.start() == expected
    assert caplog.text.count("its best one, is missing") == 2


def test_a_state_of_another_training_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Training(tmp_path, configured({})).start(lives=batches(2, 2))
    other = configured({"learning_rate": 0.01})
    expected = Training(tmp_path / "whole", other).start()
    assert Training(tmp_path, other).start() == expected
    assert "another configuration, snapshot or start" in caplog.text


def test_how_often_states_are_written_belongs_to_no_training(tmp_path: Path) -> None:
    Training(tmp_path, configured({})).start(lives=batches(2, 2))
    again = Training(tmp_path, configured({"checkpoint": {"every": 3600, "keep": 5}, "max_failures": 0}))
    again.start(lives=0)
    assert sorted(again.reports) == [1, 2]  # told again by the one that went on


def test_a_longer_training_can_be_ended_at_one_of_its_epochs(tmp_path: Path) -> None:
    """The best epoch of a trial that went on after it, or was pruned, brings its weights again."""
    config = configured({"early_stopping": {"patience": 2, "min_delta": 0.2}})
    whole = Training(tmp_path / "whole", config)
    expected = whole.start()
    best = load_checkpoint(whole.store, "run/t")[1]["epoch"]
    snapshot: Any = SimpleNamespace(hash="snapshot")
    context = TrialContext(config, SPEC, Target(), snapshot, Store(str(tmp_path / "again")), "run")
    trained = fit(config, context, data(150, 0, False), data(40, 1, False), "run/t", lambda metrics: None, until=best)
    assert trained.epochs == best < config.train.epochs
    assert load_checkpoint(context.store, "run/t")[1]["weights_sha256"] == expected
