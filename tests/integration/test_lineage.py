"""From a version back to its bytes, the same weights again, and what may be removed: over two small real runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import configured, frame

from raymlops.cli import main
from raymlops.imports import add_user_directory
from raymlops.registry.ancestry import Lineage, ancestors_of, lineage_of
from raymlops.registry.backend import Tracking, tracking
from raymlops.registry.diffing import diff_runs
from raymlops.registry.record import RunRecord
from raymlops.registry.tracking import Tracker
from raymlops.registry.versions import find_version
from raymlops.retraining.collection import collect
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.reproduction import Reproduction, reproduce
from raymlops.retraining.result import RunResult
from raymlops.retraining.retention import Keep
from raymlops.retraining.watch import Silent
from raymlops.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")

NETS = """
    import torch


    class Net(torch.nn.Module):
        def __init__(self, spec, width):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(spec.numeric, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
            )

        def forward(self, inputs):
            return self.layers(inputs["numeric"]).squeeze(1)


    def build(spec, width=8):
        return Net(spec, width)
"""


@dataclasses.dataclass(frozen=True)
class Place:
    base: Path
    store: Store
    tracking: Tracking
    first: RunResult
    second: RunResult

    def lineage(self, reference: str = "small/1") -> Lineage:
        return lineage_of(self.tracking, self.store, reference)

    def reproduce(self, run: RunResult, **options: Any) -> Reproduction:
        return reproduce(self.tracking, self.store, run.run_id[:12], Silent(), **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Place]:
    """A champion that was refitted, and a candidate that is the best epoch of its only trial."""
    base = tmp_path_factory.mktemp("lineage")
    frame(900).to_parquet(base / "rows.parquet")
    (base / "lineage_nets.py").write_text(textwrap.dedent(NETS))
    store = Store(str(base / "storage"))
    common: dict[str, Any] = {
        "storage": store.uri,
        "features": {"numeric": {"x": {}, "z": {}}},
        "model": {"kind": "factory", "factory": "lineage_nets:build"},
        "train__epochs": 2,
        "gate": {"champion": {"tolerance": 100.0}},
    }
    before = list(sys.path)
    add_user_directory(base)
    one = {**common, "search": {"trials": 1}}
    two = {**common, "seed": 2, "search": {"trials": 1, "refit": False}, "train__schedule": "constant"}
    first, second = (run_job(configured(changes), base, Silent()) for changes in (one, two))
    yield Place(base, store, tracking(None, store), first, second)
    sys.path[:] = before


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["raymlops", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capfd.readouterr().out

    return call


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit of the file is another one for a while."""
    before = path.read_bytes()
    path.write_bytes(before[:-20] + bytes([before[-20] ^ 1]) + before[-19:])
    try:
        yield
    finally:
        path.write_bytes(before)


def statuses(found: Lineage) -> dict[str, str]:
    return {f"{link.name}: {check.what}": check.status for link in found.links for check in link.checks}


def test_a_version_leads_back_to_its_bytes(place: Place) -> None:
    found = place.lineage()
    assert [link.name for link in found.links] == [
        *("version", "run", "trial", "checkpoint", "snapshot", "source", "code", "environment", "parent"),
    ]
    assert found.intact
    seen = statuses(found)
    assert {what for what, status in seen.items() if status != "verified"} <= {"code: commit"}
    for what in (
        *("version: package", "trial: values of the package", "checkpoint: weights in the storage"),
        *("snapshot: identity", "snapshot: files", "source: files", "environment: packages.txt", "run: config.yaml"),
    ):
        assert seen[what] == "verified"
    facts = found.to_dict()
    assert facts["checkpoint"]["weights_sha256"] == place.first.weights_sha256
    assert facts["snapshot"]["hash"] == place.first.snapshot
    assert facts["parent"]["uri"] is None
    later = place.lineage("small@candidate")
    assert later.parent == "models:/small/1"
    assert [one.model for one in ancestors_of(place.tracking, place.store, later)] == ["models:/small/1"]


def test_another_machine_says_what_it_cannot_see(place: Place, tmp_path: Path) -> None:
    elsewhere = Store(str(tmp_path / "nothing"))
    found = lineage_of(tracking(place.tracking.uri, elsewhere), elsewhere, "small/1", tmp_path / "nowhere")
    assert found.intact
    open_ = {link.name: [c.detail for c in link.checks if c.status == "not checked"] for link in found.links}
    assert {name for name, details in open_.items() if details} - {"code"} == {"checkpoint", "snapshot", "source"}
    assert "there is no snapshot at" in open_["snapshot"][0]
    assert found.to_dict()["snapshot"]["rows"] == place.lineage().to_dict()["snapshot"]["rows"]


@pytest.mark.parametrize(
    ("pattern", "link", "what"),
    [
        ("storage/mlartifacts/**/MODEL/**/weights.safetensors", "version", "package"),
        ("storage/runs/small/RUN/refit/weights.safetensors", "checkpoint", "weights in the storage"),
        ("storage/snapshots/*/*/encoded/holdout-00000.safetensors", "snapshot", "encoded/holdout-00000.safetensors"),
        ("storage/mlartifacts/**/RUN/artifacts/winner.json", "trial", "trial"),
        ("storage/mlartifacts/**/RUN/artifacts/packages.txt", "environment", "packages.txt"),
        ("rows.parquet", "source", "rows.parquet"),
    ],
)
def test_a_changed_bit_is_named(place: Place, pattern: str, link: str, what: str) -> None:
    model = find_version(place.tracking, "small/1").tags["model_id"]
    path = next(place.base.glob(pattern.replace("RUN", place.first.run_id).replace("MODEL", model)))
    with flipped(path):
        found = place.lineage()
    assert not found.intact
    wrong = [(one.name, check.what) for one in found.links for check in one.checks if check.status == "differs"]
    assert (link, what) in wrong
    assert {name for name, _ in wrong} <= {link, "checkpoint"}  # which reads the same record as the trial
    assert place.lineage().intact


def test_the_refitted_winner_comes_out_again(place: Place, cli: Callable[..., tuple[int, str]]) -> None:
    code, out = cli("reproduce", place.first.run_id[:8], "--storage", place.store.uri, "--json")
    done = json.loads(out.splitlines()[-1])
    assert (done["differences"], done["machine"], done["weights_sha256"]) == ([], [], place.first.weights_sha256)
    assert (code, done["exact"]) == (0, True)
    assert not [name for name in place.store.list("runs/small") if name.startswith("reproduce")]


def test_the_best_epoch_of_a_trial_comes_out_again(place: Place) -> None:
    assert place.reproduce(place.second).exact


def test_every_difference_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.base / "lineage_nets.py"
    text = source.read_text()
    monkeypatch.setattr("raymlops.registry.lineage.installed_packages", lambda: ["torch==1.0", "extra==1"])
    try:
        source.write_text(text.replace("width=8", "width=9  # nobody will notice"))
        done = place.reproduce(place.first, overrides=["seed=5"])
    finally:
        source.write_text(text)
    found = {row.key: (row.left, row.right) for row in done.differences}
    assert found["config seed"] == (1, 5)
    assert found["package torch"][1] == "1.0" and found["package extra"] == (None, "1")
    assert "function model.factory" in found
    assert not done.equal and done.weights_sha256 is not None


def test_a_damaged_snapshot_is_not_trained_on(place: Place) -> None:
    with flipped(next(place.base.glob("storage/snapshots/*/*/encoded/train-00000.safetensors"))):
        done = place.reproduce(place.first)
    assert [row.key for row in done.differences] == ["snapshot encoded/train-00000.safetensors"]
    assert (done.weights_sha256, done.exact) == (None, False)


def test_two_runs_side_by_side(place: Place) -> None:
    runs = [RunRecord.find(place.tracking, run.run_id) for run in (place.first, place.second)]
    found = {name: {r.key: (r.left, r.right) for r in rows} for name, rows in diff_runs(*runs).sections.items()}
    assert found["config"]["seed"] == (1, 2)
    assert "train.epochs" not in found["config"]
    assert found["data"] == {} and found["environment"] == {}
    assert found["metrics"]["winner validation mae"][0] > 0
    assert found["metrics"]["holdout mae"][0] == place.first.metrics["mae"]
    everything = diff_runs(*runs, everything=True).sections
    assert {"x mean", "group distinct", "rows train"} <= {row.key for row in everything["data"]}


def test_the_commands(place: Place, cli: Callable[..., tuple[int, str]]) -> None:
    where = ["--storage", place.store.uri]
    code, out = cli("lineage", "small@candidate", "--ancestors", *where)
    assert code == 0
    for words in ("models:/small/2: intact", "models:/small/1: intact", "small/1, run", "✓ package ("):
        assert words in out
    with flipped(next(place.base.glob("storage/snapshots/*/*/features.json"))):
        code, out = cli("lineage", "small", "--json", *where)
        assert code == 1 and json.loads(out)["intact"] is False
    code, out = cli("diff", place.first.run_id[:8], place.second.run_id[:8], *where)
    assert code == 0 and "data: the same" in out
    assert [line.split() for line in out.splitlines() if " seed " in line] == [["seed", "1", "→", "2"]]
    code, out = cli("gc", "--keep", "1", "--dry-run", "--json", *where)
    assert (code, json.loads(out)["removed"]) == (0, [])  # all of it is too new


def test_what_no_version_and_no_kept_run_needs_is_removed(place: Place) -> None:
    """The last test here: it takes things away."""
    config = configured({"storage": place.store.uri})
    with Tracker(config, place.store, place.base, datetime.now(UTC)) as job:
        job.tag({"raymlops.snapshot": "f" * 64})
    orphan = f"snapshots/{'f' * 64}"
    place.store.write(f"{orphan}/manifest.json", json.dumps({"directory": job.run_id}).encode())
    for path in (f"{orphan}/{job.run_id}/x", f"staging/{job.run_id}/x", f"runs/small/{job.run_id}/refit/x"):
        place.store.write(path, b"12345")
    later = time.time() + 7200
    first, second = (f"runs/small/{run.run_id}" for run in (place.first, place.second))
    planned = collect(place.store, place.tracking, Keep(), now=later, dry_run=True)
    assert place.store.exists(f"{orphan}/manifest.json")
    done = collect(place.store, place.tracking, Keep(), now=later)
    assert [i.path for i in done.removed] == [i.path for i in planned.removed]
    assert not done.failed and not done.spared
    gone = {item.path for item in done.removed}
    assert {orphan, f"staging/{job.run_id}", f"runs/small/{job.run_id}/refit", f"{first}/tune"} <= gone
    assert not place.store.exists(orphan) and not place.store.exists(f"runs/small/{job.run_id}")
    assert set(place.store.list(first)) - {"package"} == {"refit"}
    winner = RunRecord.of(place.tracking, place.second.run_id).winner
    assert set(place.store.list(second)) - {"package"} == {winner.trial}
    for version in ("small/1", "small/2"):
        assert find_version(place.tracking, version).load().scores(frame(3)).shape == (3,)
        assert place.lineage(version).intact
    assert place.reproduce(place.first).exact
