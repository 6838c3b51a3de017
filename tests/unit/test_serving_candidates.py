"""How a replica finds an isolated candidate, and when it is the candidate's own fault that it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raymlops.config.serving import CandidateServing
from raymlops.serving import candidates as module
from raymlops.serving import link
from raymlops.serving.candidates import Isolated
from raymlops.serving.link import Listener, socket_directory

Work = Callable[[Isolated], Coroutine[Any, Any, None]]


class Serve:
    """Stands for Serve: `away` as its controller, `silent` as the candidate."""

    def __init__(self, away: bool = False, silent: bool = False) -> None:
        self.away, self.silent, self.looked_up, self.probed = away, silent, 0, 0
        self.goes_away = False
        """With the next probe."""

    def look_up(self, app: str) -> Any:
        self.looked_up += 1
        if self.away:
            raise ConnectionError("no controller")
        return SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=self._predict), probe=SimpleNamespace(remote=self._probe)
        )

    async def _probe(self) -> dict[str, Any]:
        self.probed += 1
        if self.goes_away:
            self.away, self.goes_away = True, False
            await asyncio.Event().wait()
        if self.silent:
            await asyncio.Event().wait()
        return {"schema": "by probe"}

    async def _predict(self, parts: Any) -> Any:
        return [("ok", 1.0, 0.0) for _ in parts]


@pytest.fixture()
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(link, "runtime_directory", lambda: tmp_path)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.1)
    return socket_directory("cluster", "app")


def run(serve: Serve, work: Work) -> None:
    async def whole() -> None:
        candidate = Isolated("app", CandidateServing(), "cluster", serve.look_up)
        try:
            await asyncio.wait_for(work(candidate), 10)
        finally:
            candidate.close()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.usefixtures("directory")
def test_it_is_known_when_it_has_answered() -> None:
    async def work(candidate: Isolated) -> None:
        await candidate.known()
        assert candidate.schema == "by probe"
        assert await candidate._call([({}, 1)]) == [("ok", 1.0, 0.0)]

    run(Serve(), work)


@pytest.mark.usefixtures("directory")
def test_it_is_waited_for_while_serve_is_away() -> None:
    serve = Serve(away=True, silent=True)

    async def work(candidate: Isolated) -> None:
        await until(lambda: serve.looked_up > 5)
        assert not candidate._known.is_set()
        serve.away = serve.silent = False
        await candidate.known()
        assert candidate.schema == "by probe"

    run(serve, work)


@pytest.mark.usefixtures("directory")
def test_silence_is_its_own_fault_only_if_serve_is_there_before_and_after() -> None:
    serve = Serve(silent=True)
    serve.goes_away = True

    async def work(candidate: Isolated) -> None:
        await until(lambda: serve.looked_up > 5)
        assert serve.probed == 1 and not candidate._known.is_set()
        serve.away = False
        await candidate.known()
        assert serve.probed == 2 and candidate.schema is None

    run(serve, work)


def test_on_the_same_machine_nobody_has_to_ask_serve(directory: Path) -> None:
    async def answer(parts: Any) -> Any:
        return [("ok", 2.0, 0.0) for _ in parts]

    async def work(candidate: Isolated) -> None:
        with pytest.raises(RuntimeError, match="application app is not there"):
            await candidate._call([({}, 1)])
        listener = Listener(directory, answer, greeting="by greeting")
        await listener.open()
        await candidate.known()
        assert candidate.schema == "by greeting"
        assert list(await candidate._call([({}, 1)])) == [("ok", 2.0, 0.0)]
        listener.close()

    run(Serve(away=True), work)
