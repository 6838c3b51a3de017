"""Retrainings with the real job and registry: killed anywhere, blocked by the contract, from the champion's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import frame
from killing import world
from loop_world import NOW, loop, rules

from raymlops.chain import Chain
from raymlops.registry.backend import tracking
from raymlops.registry.catalog import list_models, list_runs
from raymlops.registry.versions import find_version
from raymlops.retraining import orders
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.reproduction import reproduce
from raymlops.retraining.watch import Silent
from raymlops.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A directory with rows, and a champion in its store."""
    folder = tmp_path_factory.mktemp("loop")
    frame().to_parquet(folder / "rows.parquet")
    run_job(rules(folder), folder, Silent())
    return folder


def test_a_loop_that_is_killed_anywhere_goes_on_and_does_nothing_twice(base: Path) -> None:
    points = ["after began", "registering", "registered", "before trained", "after delivering", "before ended"]
    done = world("loop_world.py", str(base), *points, "never")
    deaths = [f"{point}: killed" for point in points]
    assert done.stdout.splitlines() == [*deaths, "never: ended 0"], done.stderr[-3000:]
    entries = Chain(Store(str(base / "storage")), "retraining/small").entries()
    kinds = [entry.kind for entry in entries]
    assert {kind: kinds.count(kind) for kind in ("opened", "began", "trained", "delivering", "ended")} == dict.fromkeys(
        ("opened", "began", "trained", "delivering", "ended"), 1
    )
    [ended] = [entry.payload for entry in entries if entry.kind == "ended"]
    assert ended["outcome"] == "promoted"
    models = list_models(str(base / "storage"), None)
    assert [(model.version, "champion" in model.aliases) for model in models] == [("2", True), ("1", False)]
    [id_] = {tag for run in runs(base) for tag in [run.data.tags.get("raymlops.retraining")] if tag}
    found = find_version(tracking(None, Store(str(base / "storage"))), "small@champion")
    assert found.tags["raymlops.retraining"] == id_
    statuses = [run.status for run in list_runs(str(base / "storage"), None)]
    assert statuses == ["FINISHED", "FINISHED"], "the one that died went on"


def runs(base: Path) -> list[Any]:
    from raymlops.registry.catalog import find_jobs

    return list(find_jobs(tracking(None, Store(str(base / "storage"))), "small"))


def test_a_warm_start_keeps_the_champions_features_and_begins_with_its_weights(base: Path) -> None:
    store = Store(str(base / "storage"))
    before = find_version(tracking(None, store), "small@champion").load()
    orders.place(store, "small", "fine-tune", "me")
    one_step = {"epochs": 1, "batch_size": 4096}  # from anywhere else, one step gets nowhere
    found = loop(base, retraining={"train": "warm_start"}, train=one_step, gate__champion={"tolerance": 9.0}).round(NOW)
    assert found.retraining is not None and found.retraining.phase == "promoted", found.retraining
    after = find_version(tracking(None, store), "small@champion").load()
    assert after.manifest["facts"]["values"] == before.manifest["facts"]["values"]
    assert after.transform.state.to_json() == before.transform.state.to_json()
    rows = frame(200, seed=3)
    assert abs(after.scores(rows) - before.scores(rows)).mean() > 0, "it was trained"
    assert abs(after.scores(rows) - rows["y"]).mean() < 0.5 * abs(rows["y"] - rows["y"].mean()).mean()
    again = reproduce(tracking(None, store), store, after.manifest["facts"]["run_id"], Silent())
    assert again.exact, again.to_dict()


def test_rows_that_break_the_contract_block_the_retraining_with_the_reason(base: Path) -> None:
    store = Store(str(base / "storage"))
    champion = find_version(tracking(None, store), "small@champion").version
    bad = frame(seed=5)
    bad["z"] *= 1000.0  # somebody changed the unit
    bad.loc[:400, "x"] = None
    bad.to_parquet(base / "rows.parquet")
    orders.place(store, "small", "a new partition", "ci")
    found = loop(base).round(NOW).retraining
    assert found is not None and found.ended is not None and found.phase == "blocked"
    assert "x" in found.ended["reason"] and "z" in found.ended["reason"]
    assert find_version(tracking(None, store), "small@champion").version == champion
    again = loop(base).round(NOW)
    assert again.decision.code == "no_cause" and len(loop(base).journal.read().retrainings) == 3
