"""The parts of the control: label join, counts, settings, presence, notifications, what is shown."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError
from rich.console import Console
from rollout_cases import Behaviour, FakeWorld, run, settings
from typer.testing import CliRunner

from raymlops.config.rollout import Notify, RolloutConfig
from raymlops.errors import IntegrityError
from raymlops.rollout import candidates, notify, orders
from raymlops.rollout import settings as mapping
from raymlops.rollout.candidates import CRASHES, DOWN_SECONDS, Deployer, _App, living
from raymlops.rollout.evidence import LatencyMetric, MeanMetric, RateMetric
from raymlops.rollout.joining import DELIVERY_SECONDS, MAX_PREDICTIONS, LabelJoin
from raymlops.rollout.presence import Presence
from raymlops.rollout.settings import EndpointSettings, shares_of
from raymlops.rollout.status import status_of
from raymlops.rollout.status_text import duration, history, render
from raymlops.rollout.totals import BOUNDS, Totals, bucket, quantile
from raymlops.rollout_cli import app
from raymlops.serving.document import LatencyRule, ModelRef, QualityRule, RoutingDocument
from raymlops.store import Store

JOIN = {"mae": (10.0, 4.0)}


def _due(join: LabelJoin, now: float) -> list[tuple[float | None, float | None]]:
    return [(outcome.value, outcome.label_at) for outcome in join.due(now)]


def test_outcomes_come_at_their_horizon_with_or_without_a_label() -> None:
    join = LabelJoin(JOIN, classes=False)
    join.predicted(["a", 1, 0, 7, 0.0, 5.0])
    join.predicted(["b", 1, 1, 8, 0.0, 5.0])
    join.predicted(["c", 1, 1, 9, 0.0, 5.0])
    join.labelled(["a", 6.0, 10.0, None])
    join.labelled(["b", 6.0, 10.001, None])  # too late, whenever it arrives
    join.labelled(["a", 5.0, 10.0, None])  # the first label counts
    assert _due(join, 10.0 + DELIVERY_SECONDS - 0.01) == []
    assert sorted(_due(join, 10.0 + DELIVERY_SECONDS), key=str) == [(0.75, 10.0), (None, None), (None, None)]
    assert _due(join, 1000.0) == []


def test_labels_may_come_before_predictions_and_by_key() -> None:
    join = LabelJoin(JOIN, classes=False)
    join.labelled(["a", 5.0, 1.0])
    join.predicted(["a", 1, 0, 7, 0.0, 5.0])
    join.predicted(["b", 1, 0, 8, 0.0, 5.0])
    join.labelled([None, 9.0, 2.0, 8])
    join.labelled([None, 9.0, 2.0, 99])  # nobody's
    assert sorted(_due(join, 100.0)) == [(0.0, 2.0), (1.0, 1.0)]


def test_classes_and_labels_that_cannot_be_read() -> None:
    join = LabelJoin(JOIN, classes=True)
    join.predicted(["a", 1, 0, None, 0.0, "yes"])
    join.labelled(["a", "no", 1.0])
    assert _due(join, 100.0) == [(0.0, 1.0)]
    numbers = LabelJoin(JOIN, classes=False)
    for name, label in (("a", "many"), ("b", float("nan"))):
        numbers.predicted([name, 1, 0, None, 0.0, 1.0])
        numbers.labelled([name, label, 1.0])
    assert _due(numbers, 100.0) == [(None, None), (None, None)] and numbers.unreadable == 2


def test_the_join_is_bounded_whatever_the_arm() -> None:
    join = LabelJoin(JOIN, classes=False)
    for n in range(3 * MAX_PREDICTIONS):
        join.predicted([f"p{n}", 1, n % 2, None, 0.0, 1.0])
    arms = [outcome.arm for outcome in join.due(100.0)]
    assert 0.4 * MAX_PREDICTIONS < len(arms) <= MAX_PREDICTIONS
    assert abs(sum(arms) / len(arms) - 0.5) < 0.02
    assert join.thinned == 3 * MAX_PREDICTIONS - len(arms)


@given(st.lists(st.tuples(st.sampled_from("pl"), st.integers(0, 20), st.floats(0, 30)), max_size=40), st.floats(0, 60))
def test_the_join_goes_on_after_json(steps: list[tuple[str, int, float]], now: float) -> None:
    join = LabelJoin(JOIN, classes=False)
    for kind, n, at in steps:
        if kind == "p":
            join.predicted([f"p{n}", 1, n % 2, n, at, 1.0])
        else:
            join.labelled([f"p{n}", 2.0, at, None])
    again = LabelJoin.from_dict(json.loads(json.dumps(join.to_dict())))
    assert again.due(now) == join.due(now)
    assert again.to_dict() == join.to_dict()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 5)), max_size=60))
def test_cumulative_counts_may_come_twice_or_not_at_all(steps: list[tuple[int, int, int]]) -> None:
    chance = random.Random(len(steps))
    totals, told = Totals(), {replica: {0: 0, 1: 0} for replica in range(3)}
    for replica, arm, n in steps:
        told[replica][arm] += n
        rows = [{"epoch": 0, "arm": a, "requests": m, "fallbacks": m} for a, m in told[replica].items()]
        for _ in range(chance.randrange(3)):
            totals.take(str(replica), rows)
    for replica, counts in told.items():
        totals.take(str(replica), [{"epoch": 0, "arm": a, "requests": m, "fallbacks": m} for a, m in counts.items()])
    expected = sum(sum(counts.values()) for counts in told.values())
    assert totals.pooled == (expected, expected)
    assert Totals.from_dict(json.loads(json.dumps(totals.to_dict()))).to_dict() == totals.to_dict()


def test_quantiles_are_buckets() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    for n in range(1, 1001):
        counts[bucket(n / 1000)] += 1
    for q in (0.5, 0.95, 0.99):
        found = quantile(counts, q)
        assert found is not None and q <= found <= q * 1.26
    assert quantile([0] * (len(BOUNDS) + 1), 0.5) is None
    assert bucket(1e9) == len(BOUNDS)


def test_comparisons_become_metrics() -> None:
    config = RolloutConfig.model_validate(
        {
            "comparisons": {
                "errors": {"kind": "rate", "tolerance": 1.5, "margin": 3.0, "excess": None},
                "late": {"kind": "rate", "event": "timeouts"},
                "slow": {"kind": "latency", "quantile": 0.9, "tolerance": 1.1, "margin": 2.0, "slack_ms": 3},
                "mae": {"kind": "quality", "loss_scale": 2.0, "horizon_seconds": 60.0, "margin": 0.1},
            }
        }
    )
    found = mapping.evidence_config(config, candidates=2, attempt=3, request_timeout=4.0)
    assert found.metrics == (
        RateMetric("errors", 1.5, 3.0, None, 4),
        RateMetric("late", 1.0, 2.0, 0.01, 4),
        LatencyMetric("slow", 1.1, 2.0, 0.9, 0.003),
        MeanMetric("mae", 65.0, 0.0, 0.1),
    )
    assert (found.candidates, found.attempt, found.request_timeout, found.alpha) == (2, 3, 4.0, 0.01)
    assert mapping.rates_of(config) == {"errors": "errors", "late": "timeouts"}
    assert mapping.quality_of(config) == (QualityRule("mae", 2.0),)
    assert mapping.label_rules(config) == {"mae": (60.0, 2.0)}
    ab = mapping.policy_of(config, "ab")
    assert [step.share for step in ab.steps] == [0.5] and ab.approve_promotion


def test_a_reporter_knows_every_event_of_its_document() -> None:
    base = settings().champion
    assert base is not None
    rules = (LatencyRule("slow", 1.0, 1.0), LatencyRule("slow@margin", 1.0, 2.0))
    document = RoutingDocument("e", 1, 1, base, rates={"errors": "errors"}, latency=rules)
    assert mapping.reporter_config(document, 1.0).event_names == {"errors", "slow", "slow@margin"}


@given(st.floats(0.001, 0.999), st.integers(1, 6), st.sets(st.integers(1, 6)))
def test_shares_are_whole_ten_thousandths(total: float, candidates: int, dropped: set[int]) -> None:
    shares = shares_of(total, frozenset(dropped), candidates)
    assert len(shares) == candidates and sum(shares) <= 1.0
    for number, share in enumerate(shares, start=1):
        assert share == round(share * 10_000) / 10_000
        assert (share == 0.0) == (number in dropped) or total / candidates < 0.0001


def test_settings_survive_json() -> None:
    assert EndpointSettings.from_json(settings().to_json()) == settings()


def test_presence() -> None:
    presence = Presence()
    presence.asked({"id": "a", "build": "1"}, None, [], 0.0)
    presence.asked({"id": "b", "build": "1", "failed": {"x": "why"}}, [1, 2], ["x"], 0.0)
    assert {r.id for r in presence.live(100.0)} == {"a", "b"}  # their calls are open
    presence.answered("a", 100.0)
    assert {r.id for r in presence.live(101.9)} == {"a", "b"}
    assert [r.id for r in presence.live(102.1)] == ["b"]
    presence.asked({"id": "c", "build": "2"}, None, [], 103.0)
    assert {r.build for r in presence.live(103.0)} == {"1", "2"}
    assert presence.settled_s(105.0) == 2.0


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/secret":
                heard.append(json.loads(body))
            self.send_response({"/secret": 200, "/elsewhere": 302}.get(self.path, 500))
            self.send_header("Location", "/secret")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()


def test_webhooks_and_commands_hear_of_it(webhook: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    url, heard = webhook
    out = tmp_path / "$(touch injected).json"
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    config = Notify(webhooks=[f"{url}/secret"], commands=[[sys.executable, "-c", script, str(out)]])
    event = {"event": "rollback", "endpoint": "e", "numbers": float("inf")}
    assert notify.send(config, event) == []
    assert heard == [json.loads(out.read_text())] == [{"event": "rollback", "endpoint": "e", "numbers": None}]


def test_who_does_not_hear_is_named_without_secrets(webhook: tuple[str, list[dict[str, Any]]]) -> None:
    url, heard = webhook
    config = Notify(
        webhooks=[f"{url}/broken?token=s3cret", f"{url}/elsewhere", "file:///etc/passwd", "http://127.0.0.1:1/"],
        commands=[["/no/such/program"], [sys.executable, "-c", "import sys; sys.exit('why not')"], [],
                  [sys.executable, "-c", "import time; time.sleep(60)"]],
        timeout_s=1.0,
    )  # fmt: skip
    failures = notify.send(config, {})
    assert len(failures) == 8 and heard == []
    assert "s3cret" not in str(failures) and "why not" in str(failures) and "timed out" in failures[-1]


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


# -- candidates' applications ------------------------------------------------------------------------------------------


def test_replicas_that_serve_is_finding_again_did_not_die() -> None:
    app = _App(state="ready")
    for now in range(2 * CRASHES):
        states = {"RUNNING": 1} if now % 2 else {"RECOVERING": 1}
        app.see("DEPLOYING", living(states), "", float(now))
    assert app.state == "ready" and not app.deaths
    app.see("DEPLOYING", living({"STARTING": 1}), "", 10.0)
    assert len(app.deaths) == 1


def test_a_crash_loop_and_a_long_absence_are_failures() -> None:
    app = _App(state="ready")
    for now in range(2 * CRASHES):
        app.see("DEPLOYING", now % 2, "", float(now))
    assert app.state == "ready"
    app.see("DEPLOYING", 0, "", 10.0)
    assert app.state == "failed" and app.reason.startswith("crash loop: 3 deaths")
    app = _App(state="ready")
    app.see("DEPLOYING", 0, "", 0.0)
    app.see("DEPLOYING", 0, "", DOWN_SECONDS)
    assert app.state == "ready"
    app.see("DEPLOYING", 0, "", 0.1 + DOWN_SECONDS)
    assert app.state == "failed"


def test_what_a_candidate_says_to_a_probe_is_believed_and_silence_is_asked_again() -> None:
    app = _App()
    app.probed(TimeoutError())
    assert app.state == "starting"
    app.probed(TimeoutError())
    assert (app.state, app.reason) == ("failed", "the probe failed: TimeoutError")
    app = _App()
    app.probed(RayTaskError("probe", "", IntegrityError("other numbers")))
    assert (app.state, app.reason) == ("failed", "the probe failed: IntegrityError: other numbers")


class Serve:
    """Stands for Serve: what is deployed runs at once, what is deleted is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *running: str) -> None:
        self.running, self.deleted = set(running), list[str]()
        self.deploying: Callable[[], None] = lambda: None
        monkeypatch.setattr(candidates, "_applications", lambda _: dict.fromkeys(self.running, ("RUNNING", 1, "")))
        monkeypatch.setattr(candidates, "_delete", self._delete)
        monkeypatch.setattr(candidates, "_deploy", self._deploy)
        monkeypatch.setattr(candidates, "_handle", self._handle)

    def _delete(self, name: str) -> None:
        self.running.remove(name)
        self.deleted.append(name)

    def _deploy(self, _: Any, models: list[ModelRef]) -> None:
        self.deploying()
        self.running |= {f"m-candidate-{model.version}" for model in models}

    def _handle(self, _: str) -> Any:
        async def probe() -> None:
            return None

        return SimpleNamespace(probe=SimpleNamespace(remote=probe))


def test_a_controller_that_starts_anew_removes_no_candidate_before_it_knows_which_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, model = "m-candidate-2", ModelRef("m", "2", "2" * 64)
    serve = Serve(monkeypatch, name, "m-candidate-1")

    async def work() -> None:
        deployer = Deployer(SimpleNamespace(name="m"))  # type: ignore[arg-type]
        await deployer.reconcile()
        assert not serve.deleted
        deployer.want({name: model})
        await deployer.reconcile()
        assert serve.deleted == ["m-candidate-1"] and serve.running == {name}
        while deployer.status() != {name: ("ready", "")}:
            await asyncio.sleep(0)

    asyncio.run(work())


def test_a_candidate_that_is_unwanted_while_it_is_deployed_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    name, model = "m-candidate-2", ModelRef("m", "2", "2" * 64)
    serve = Serve(monkeypatch)
    monkeypatch.setattr(candidates, "POLL_SECONDS", 0.0)

    async def work() -> None:
        deployer = Deployer(SimpleNamespace(name="m"))  # type: ignore[arg-type]
        serve.deploying = lambda: deployer.want({})
        deployer.want({name: model})
        task = asyncio.ensure_future(deployer.run())
        async with asyncio.timeout(10):
            while serve.deleted != [name]:
                await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(work())
