"""`raymlops loop status|history|explain|trigger` over a ledger that a loop wrote."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from snapshot_cases import BASE
from test_retraining_loop import NOW, World, alarm, rounds
from typer.testing import CliRunner

from raymlops.cli import app
from raymlops.monitoring.signals import Signal
from raymlops.store import Store

INCIDENT = "degradation-1-2026-02-20"


class Shell:
    def __init__(self, root: Path) -> None:
        self.config = root / "trips.yaml"
        self.config.write_text(yaml.safe_dump({**BASE, "storage": str(root / "store")}))
        self.world = World(Store(str(root / "store")))

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["loop", command, str(self.config), *arguments])
        assert done.exit_code == code, done.output
        return done.stdout

    def json(self, command: str, *arguments: str) -> Any:
        return json.loads(self(command, *arguments, "--json").splitlines()[-1])

    def fails(self, command: str, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["loop", command, str(self.config), *arguments])
        assert done.exit_code == 1
        return str(done.exception)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_loop_that_never_ran_says_so(shell: Shell) -> None:
    assert shell("status") == "trips: no loop has watched it yet; start one with `raymlops loop`\n"
    order = shell.json("trigger", "--reason", "new labels", "--by", "ci")
    assert shell("status").splitlines()[1] == f"order {order['id']} by ci, waits for a round: new labels"
    assert "no loop has watched a model 'trips' yet" in shell.fails("history")


def test_an_incident_is_told_from_the_first_sign_to_its_end(shell: Shell) -> None:
    rounds(shell.world, 2, debounce=60)
    shell.world.alarms = [alarm()]
    rounds(shell.world, 3, start=NOW + timedelta(hours=1), debounce=60)
    told = shell("explain", INCIDENT)
    words = ["the alarm has to last 0:01:00", "the error doubled", "search on labelled rows from 2026-02-20",
             "version 2", "  - better", "by rollout", "promoted: evidence"]  # fmt: skip
    places = [told.index(word) for word in words]
    assert places == sorted(places)
    found = shell.json("explain", INCIDENT)
    retraining = found["retraining"]
    assert (retraining["phase"], retraining["cause"]) == ("promoted", "degradation")
    assert retraining["numbers"] == {"loss": None}, "JSON has no NaN"
    assert shell.json("explain", retraining["id"])["entries"] == found["entries"]
    assert f"known: {retraining['id']}, {INCIDENT}" in shell.fails("explain", "nonsense")
    whole = shell("history")
    assert "nothing: no alarm, no order, nothing due" in whole and "after 1 looks that said the same" in whole
    assert len(shell.json("history")) == len(whole.splitlines()) - 2  # a reason and a count have lines of their own


def test_a_follow_up_belongs_to_the_story_of_its_incident(shell: Shell) -> None:
    window = {"mode": "since_change", "days": 28, "validation_days": 7, "holdout_days": 7}
    shell.world.alarms = [alarm(since="2026-02-10")]
    rounds(shell.world, 3, window=window)
    incident = "degradation-1-2026-02-10"
    assert shell.json("explain", incident)["follow_up"] is None
    shell.world.alarms = [Signal("degradation", False, "2026-03-15", None, "as at registration")]
    rounds(shell.world, 1, start=NOW + timedelta(days=14), window=window)
    assert "and 35 days of it have to be labelled; follow_up: planned when degradation-1-2026" in shell("status")
    shell.world.alarms = [Signal("degradation", False, "2026-03-16", None, "as at registration")]
    rounds(shell.world, 2, start=NOW + timedelta(days=15), window=window)
    assert shell.world.champions == ["1", "2", "3"]
    told = shell("explain", incident)
    words = [
        "the error doubled",
        "a follow-up is planned",
        "version 2",
        "and 35 days of it",
        "follow_up: planned",
        "version 3",
    ]
    places = [told.index(word) for word in words]
    assert places == sorted(places)
    found = shell.json("explain", incident)["follow_up"]
    assert (found["phase"], found["cause"], found["since"]) == ("promoted", "follow_up", "2026-02-10")


def test_status_shows_what_is_under_way_and_what_waits(shell: Shell) -> None:
    shell.world.alarms, shell.world.rollout_takes = [alarm()], 9
    rounds(shell.world, 2)
    order = shell.json("trigger", "--reason", "new labels", "--by", "ci")
    text = shell("status")
    assert "trips: wait:" in text and f"order {order['id']} by ci, waits" in text
    found = shell.json("status")
    assert (found["open"]["phase"], found["orders"][0]["reason"], found["last"]) == ("delivering", "new labels", None)


def test_an_order_needs_a_reason(shell: Shell) -> None:
    done = CliRunner().invoke(app, ["loop", "trigger", str(shell.config), "--reason", " "])
    assert "--reason: found none" in str(done.exception)
