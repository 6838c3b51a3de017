"""Rollouts as people see them: ledger, history, status."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rollout_cases import Behaviour, FakeWorld, run, settings
from typer.testing import CliRunner

from raymlops.rollout import orders
from raymlops.rollout.presence import Presence
from raymlops.rollout.status import status_of
from raymlops.rollout.status_text import duration, history, render
from raymlops.rollout_cli import app
from raymlops.store import Store


@pytest.fixture
def finished(tmp_path: Path) -> FakeWorld:
    world = FakeWorld(Store(str(tmp_path)), settings())
    world.behaviour["2"] = Behaviour(errors=0.5)

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.until(world.over)

    run(scenario())
    return world


def test_the_ledger_from_the_command_line(finished: FakeWorld) -> None:
    cli = CliRunner()
    storage = ["--storage", finished.store.uri]
    done = cli.invoke(app, ["verify", "trips", "--json", *storage])
    assert done.exit_code == 0 and json.loads(done.output) == {"entries": len(finished.ledger), "term": 1}
    done = cli.invoke(app, ["history", "trips", "--json", *storage])
    assert json.loads(done.output) == [asdict(entry) for entry in finished.ledger]
    shown = cli.invoke(app, ["history", "trips", *storage]).output
    assert "rollback" in shown and "blame: errors" in shown
    path = Path(finished.store.uri) / finished.steering.ledger.path(3)
    path.write_bytes(path.read_bytes().replace(b"me", b"you"))
    done = cli.invoke(app, ["verify", "trips", *storage])
    assert done.exit_code == 1 and "changed" in str(done.exception)
    assert "no ledger" in str(cli.invoke(app, ["verify", "other", *storage]).exception)


def _shown(found: Any) -> str:
    console = Console(width=160, file=StringIO(), record=True)
    console.print(found)
    return console.export_text()


def test_durations_as_people_write_them() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3600, 5 * 3600 + 600, 90_000)] == [
        "0 s", "59 s", "1 min 1 s", "1 h", "5 h 10 min", "1 d 1 h",
    ]  # fmt: skip


def test_history_is_a_line_per_entry(finished: FakeWorld) -> None:
    text = _shown(history([asdict(entry) for entry in finished.ledger]))
    assert len(text.strip().splitlines()) == len(finished.ledger) + 1


def test_a_controller_that_recovers_is_shown() -> None:
    text = _shown(render({"controller": {"state": "recovering", "error": "no store"}}))
    assert "recovering: no store" in text


def _status(world: FakeWorld) -> dict[str, Any]:
    parts: Any = SimpleNamespace(
        steering=world.steering,
        outside=SimpleNamespace(alias=world.alias, errors={"alias": "no registry"}),
        presence=Presence(),
        deployer=SimpleNamespace(status=lambda: dict.fromkeys(world.running, ("ready", ""))),
        settings=world.settings,
    )
    return dict(json.loads(json.dumps(status_of(parts, world.now, ""), allow_nan=False)))


def test_the_status_follows_a_rollout(tmp_path: Path) -> None:
    comparisons = {
        "errors": {"kind": "rate", "excess": 0.2, "strata": 1},
        "slow": {"kind": "latency", "tolerance": 1.5, "margin": 3.0, "slack_ms": 2.0},
        "mae": {"kind": "quality", "loss_scale": 10.0, "horizon_seconds": 1.0, "margin": 0.5},
    }
    world = FakeWorld(Store(str(tmp_path)), settings(comparisons=comparisons, cooldown_seconds=60.0))
    shown: dict[str, str] = {}

    async def scenario() -> None:
        await world.seconds(3)
        shown["before"] = _shown(render(_status(world)))
        await world.begin(2)
        await world.until(lambda: world.kinds()[-1] == "step")
        await world.seconds(4)
        found = _status(world)
        [evidence] = found["rollout"]["evidence"]
        control, candidate = found["rollout"]["latency_limits_s"]["slow"]
        assert candidate == pytest.approx(1.5 * control + 0.002)
        assert [m["metric"] for m in evidence["metrics"]] == ["errors", "slow", "mae"]
        assert all(m["rollback_at"] > m["promotion_at"] > 0 for m in evidence["metrics"])
        assert sum(arm["requests"] for arm in found["traffic"]) == found["rollout"]["requests"] > 0
        assert found["rollout"]["arms"][0]["share"] + found["rollout"]["arms"][1]["share"] == 1.0
        shown["running"] = _shown(render(found))
        assert f"slow counts requests above {control * 1000:.3g} ms in control" in shown["running"]
        await world.steering.order(lambda c: orders.pause(c, "me"), world.now)
        shown["paused"] = _shown(render(_status(world)))
        await world.steering.order(lambda c: orders.abort(c, "enough", "me", world.now), world.now)
        await world.until(world.over)
        shown["after"] = _shown(render(_status(world)))
        world.alias = "7"
        shown["moved"] = _shown(render(_status(world)))

    run(scenario())
    assert "no rollout yet" in shown["before"] and "champion: version 1" in shown["before"]
    for word in ("step", "candidate-1", "errors", "slow", "mae", "ratio", "deadline in", "alias is tried again"):
        assert word in shown["running"], word
    assert "paused by somebody's order" in shown["paused"]
    assert "taken back" in shown["after"] and "enough" in shown["after"]
    assert "somebody moved it to version 7" in shown["moved"]


def test_the_status_of_copies(tmp_path: Path) -> None:
    world = FakeWorld(Store(str(tmp_path)), settings())

    async def scenario() -> None:
        await world.tick()
        await world.begin(2, mode="shadow")
        await world.seconds(2)
        row = {"epoch": 0, "arm": 1, "requests": 50, "errors": 2, "fallbacks": 2, "compared": 48, "disagreed": 12}
        payload = {"replica": "x", "sequence": 1, "rollout": world.conductor.rollout.id, "totals": [row]}  # type: ignore[union-attr]
        world.steering.take({**payload, "totals": [{**row, "difference": 24.0}]})

    run(scenario())
    found = _status(world)
    [arm] = [arm for arm in found["traffic"] if arm["arm"] == "candidate-1"]
    assert (arm["requests"], arm["disagreed"], arm["mean_difference"]) == (50, 12, 0.5)
    text = _shown(render(found))
    assert "shadow" in text and "25.00%" in text and "0.5" in text
