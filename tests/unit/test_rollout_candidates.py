"""Candidates as Serve has them: alive, crashing, unwanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from raymlops.errors import IntegrityError
from raymlops.rollout import candidates
from raymlops.rollout.candidates import CRASHES, DOWN_SECONDS, Deployer, _App, living
from raymlops.serving.document import ModelRef


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
