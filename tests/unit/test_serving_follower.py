"""How a replica comes to its document: only newer ones, only with their models; and what without a controller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from raymlops.serving import follower as module
from raymlops.serving.document import Arm, ModelRef, RoutingDocument
from raymlops.serving.follower import Follower
from raymlops.serving.router import Router

A, B, C = (ModelRef("m", str(n), str(n) * 64) for n in (1, 2, 3))
FIRST = RoutingDocument("m", term=1, version=1, champion=A)
CANARY = replace(FIRST, version=2, rollout="r", arms=(Arm(A), Arm(B, "app")), shares=(1_000,), salt="s", counted=True)


class Models:
    """Stands for the host: loads at once, but for those that are broken."""

    def __init__(self, *broken: ModelRef) -> None:
        self.held: set[str] = set()
        self.failed: dict[str, str] = {}
        self._broken = {model.sha256 for model in broken}

    @property
    def loaded(self) -> list[str]:
        return sorted(self.held)

    def get(self, ref: ModelRef) -> ModelRef | None:
        return ref if ref.sha256 in self.held else None

    async def hold(self, wanted: Iterable[ModelRef]) -> None:
        for ref in wanted:
            await asyncio.sleep(0)
            if ref.sha256 in self._broken:
                self.failed[ref.sha256] = "broken"
            else:
                self.held.add(ref.sha256)

    async def keep_only(self, wanted: Iterable[ModelRef]) -> None:
        self.held &= {ref.sha256 for ref in wanted}


class Controller:
    """Gives its document to whoever does not know it; `away` makes it unreachable."""

    def __init__(self, document: RoutingDocument) -> None:
        self.text, self.away = document.to_json(), False
        self.asked: list[tuple[list[int] | None, list[str], dict[str, str]]] = []

    async def document(
        self, facts: dict[str, Any], known: list[int] | None, loaded: list[str], timeout_s: float
    ) -> str | None:
        self.asked.append((known, loaded, facts["failed"]))
        if self.away:
            raise ConnectionError("nobody there")
        if known != list(RoutingDocument.from_json(self.text).order):
            return self.text
        await asyncio.sleep(0.01)
        return None


class World:
    def __init__(self, *broken: ModelRef, document: RoutingDocument = FIRST) -> None:
        self.now = 0.0
        self.models, self.controller = Models(*broken), Controller(document)
        self.adopted: list[RoutingDocument] = []
        self.found = asyncio.Event()
        """Whether the isolated candidate is found."""
        self.found.set()
        self.follower = Follower(self.models, {"id": "r"}, self.controller, self._adopt, lambda: self.now)  # type: ignore[arg-type]

    async def _adopt(self, router: Router) -> None:
        if router.arms and any(arm.app is not None for arm in router.arms):
            await self.found.wait()
        self.adopted.append(router.document)

    async def until(self, what: Any) -> None:
        async with asyncio.timeout(10):
            while not what():
                await asyncio.sleep(0.005)

    def run(self, work: Any) -> None:
        async def whole() -> None:
            task = asyncio.ensure_future(self.follower.run())
            try:
                await work()
            finally:
                task.cancel()

        asyncio.run(whole())


def test_documents_are_followed_upwards_and_told_as_known() -> None:
    world = World()

    async def work() -> None:
        await world.until(lambda: world.adopted == [FIRST])
        world.controller.text = CANARY.to_json()
        await world.until(lambda: world.adopted == [FIRST, CANARY])
        await world.until(lambda: world.controller.asked[-1][0] == [1, 2])
        assert not await world.follower.take(FIRST), "an older one is not followed"
        assert await world.follower.take(replace(FIRST, term=2)), "a new term is newer, whatever its version"

    world.run(work)


def test_asking_goes_on_while_a_candidate_is_looked_for_and_a_newer_document_ends_that() -> None:
    """Who does not ask counts as dead: a promotion or rollback would not wait for it."""
    world = World()

    async def work() -> None:
        await world.until(lambda: world.adopted == [FIRST])
        world.found.clear()
        world.controller.text = CANARY.to_json()
        calls = len(world.controller.asked)
        await world.until(lambda: len(world.controller.asked) >= calls + 3)
        assert world.controller.asked[-1][0] == [1, 1], "it is not yet followed"
        world.controller.text = replace(FIRST, version=3).to_json()
        await world.until(lambda: world.adopted == [FIRST, replace(FIRST, version=3)])
        world.controller.text = replace(CANARY, version=4).to_json()
        await asyncio.sleep(0)
        world.found.set()
        await world.until(lambda: world.controller.asked[-1][0] == [1, 4])

    world.run(work)


def test_the_first_document_is_taken_when_the_controller_is_away() -> None:
    world = World()
    world.controller.away = True

    async def work() -> None:
        task = asyncio.ensure_future(world.follower.run(CANARY))
        await world.until(lambda: world.adopted == [CANARY])
        task.cancel()

    asyncio.run(work())


def test_residents_are_loaded_beside_and_dropped_when_not_named() -> None:
    world = World()

    async def work() -> None:
        await world.follower.take(replace(FIRST, resident=(C,)))
        await world.until(lambda: world.models.held == {A.sha256, C.sha256})
        await world.follower.take(replace(FIRST, version=2, champion=C))
        await world.until(lambda: world.models.held == {C.sha256})

    world.run(work)


def test_a_document_whose_model_cannot_be_loaded_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    world = World(B)

    async def work() -> None:
        await world.until(lambda: world.adopted == [FIRST])
        world.controller.text = replace(FIRST, version=2, champion=B).to_json()
        await world.until(lambda: world.controller.asked[-1][2] == {B.sha256: "broken"})
        assert world.adopted == [FIRST] and world.controller.asked[-1][0] == [1, 1]

    world.run(work)


def test_what_is_not_followed_is_not_asked_for_all_the_time() -> None:
    world = World(document=replace(FIRST, version=2, champion=B))
    world.models = Models(B)
    world.follower = Follower(world.models, {"id": "r"}, world.controller, world._adopt, lambda: 0.0)  # type: ignore[arg-type]

    async def work() -> None:
        await world.until(lambda: world.controller.asked)
        await asyncio.sleep(0.2)
        assert len(world.controller.asked) < 4

    world.run(work)


def test_shares_that_no_rollout_may_have_are_refused() -> None:
    world = World()

    async def work() -> None:
        await world.until(lambda: world.adopted == [FIRST])
        assert not await world.follower.take(replace(CANARY, shares=(10_001,)))
        assert world.follower.document == FIRST

    world.run(work)


def test_without_a_controller_for_long_the_champion_answers_alone_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    world = World(document=CANARY)

    async def work() -> None:
        await world.until(lambda: world.adopted == [CANARY])
        world.controller.away = True
        calls = len(world.controller.asked)
        await world.until(lambda: len(world.controller.asked) > calls + 3)
        assert len(world.adopted) == 1, "a short absence changes nothing"
        world.now = 2 * module.AWAY_SECONDS
        await world.until(lambda: len(world.adopted) == 2)
        assert world.adopted[1].arms == () and not world.adopted[1].counted
        world.controller.away = False
        await world.until(lambda: world.adopted[2:] == [CANARY])

    world.run(work)
