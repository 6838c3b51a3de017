"""Real processes die, hang and fill up under steady load: nobody gets a failed or wrong answer for it, the verdict is
that of a rollout without the fault, and ledger, registry and traffic agree afterwards."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from faults_load import steady
from faults_wait import eventually
from faults_world import NOISE, World

from raymlops.registry.versions import find_version
from raymlops.serving.prediction_reader import read_predictions

VERSIONS = ("good", "moody")
PROMOTED = ["started", "running", "promotion", "promoting", "promoted", "finished"]
ROLLED_BACK = ["started", "running", "rollback", "rolled_back"]
LEAK, GROWTH = 150 << 20, 60 << 20
"""Bytes that a leaking candidate takes at least, and that the champion's replicas may grow by meanwhile."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = World(tmp_path_factory.mktemp("faults"), VERSIONS)
        yield made
        made.close()


# A fault happens when its block is entered, and is over when it is left; it gives the times at which requests that were
# under way may be lost.


@contextmanager
def garbage_and_no_room_for_the_log(world: World) -> Iterator[list[float]]:
    """Neither predictions nor labels can be written; predictions wait, labels are refused."""
    mark, since = world.load.mark(), datetime.now(UTC) - timedelta(minutes=1)
    with world.no_room(world.ingress), world.misbehaving("garbage"):
        yield []
        world.load.more(100)
        labelled = world.load.records[mark].prediction_id
        assert world.label(labelled) == (503, "1")
    assert world.label(labelled)[0] == 200
    given = {record.prediction_id for record in world.load.since(mark) if record.fine}

    def logged() -> bool:
        found = read_predictions(world.store, world.name, since, datetime.now(UTC), ["prediction_id"])
        return given <= set(found["prediction_id"].to_pylist())

    eventually("what could not be written is written", logged)


@contextmanager
def hanging_and_mlflow_hangs(world: World) -> Iterator[list[float]]:
    """The registry does not answer while the candidate is taken back."""
    world.registry.signal(signal.SIGSTOP)
    try:
        with world.misbehaving("hangs"):
            yield []
    finally:
        world.registry.signal(signal.SIGCONT)
    reference = f"{world.name}/{world.versions['moody']}"

    def tagged() -> bool:
        return "timeouts" in find_version(world.direct, reference).tags.get("raymlops.rollout", "")

    eventually("the version is tagged", tagged)


@contextmanager
def candidate_killed_in_a_pause(world: World) -> Iterator[list[float]]:
    """What nobody counts decides nothing: it comes back and is promoted."""
    world.order("pause", "test")
    world.follow()
    pid = world.candidate()
    world.kill(pid)
    mark = world.load.mark()

    def back() -> bool:
        return sum(r.variant == "candidate-1" for r in world.load.since(mark)) > 30

    world.load.more(40)
    mark = world.load.mark()
    eventually("the candidate answers again", back)
    assert world.candidate() != pid
    world.order("resume", "test")
    yield []


@contextmanager
def leaking_until_killed(world: World) -> Iterator[list[float]]:
    """As by the kernel when memory runs out."""
    replicas = world.ingress()
    before = [psutil.Process(pid).memory_info().rss for pid in replicas]
    leaking = psutil.Process(world.candidate())
    size = leaking.memory_info().rss
    with world.misbehaving("leaks"):
        eventually("it leaks", lambda: leaking.memory_info().rss > size + LEAK)
        world.kill(leaking.pid)
    yield []
    assert world.ingress() == replicas
    grown = [psutil.Process(pid).memory_info().rss - b for pid, b in zip(replicas, before, strict=True)]
    assert max(grown) < GROWTH, grown


@contextmanager
def replica_killed(world: World) -> Iterator[list[float]]:
    """One of the two. What it had under way is lost, and nothing else."""
    pid = world.ingress()[0]
    at = time.monotonic()
    world.kill(pid)
    eventually("two run again", lambda: len(set(world.ingress()) - {pid}) == 2)
    yield [at]


@contextmanager
def serve_killed(world: World) -> Iterator[list[float]]:
    (pid,) = world.pids("ray::ServeController")
    world.kill(pid)
    yield []
    eventually("Serve's controller is back", lambda: set(world.pids("ray::ServeController")) - {pid})


@contextmanager
def mlflow_down_and_two_promote(world: World) -> Iterator[list[float]]:
    """Both at once, and the registry away: the traffic moves, the alias follows when it can."""
    after = world.last_entry()
    world.registry.kill()
    try:
        answers = world.both(["promote", "one"], ["promote", "other"])
        assert sorted(answer.get("error", "") for answer in answers) == ["", "Refused"]
        world.reaches("promoted", after)
        assert world.status()["alias"]["note"].startswith("is being moved")
    finally:
        world.registry.start()  # answers many seconds later
    yield []


@contextmanager
def no_room_for_the_controller(world: World) -> Iterator[list[float]]:
    """It decides nothing that it cannot write down, says so, and goes on when there is room."""
    controller = world.controller()
    with world.no_room(lambda: [controller]):
        eventually("it says so", lambda: world.status()["controller"]["state"] == "degraded")
        entries = world.last_entry()
        world.load.more(150)
        assert world.last_entry() == entries
    yield []
    assert world.controller() == controller


@contextmanager
def promote_and_abort(world: World) -> Iterator[list[float]]:
    """Whichever comes first, the candidate does not stay."""
    promote, abort = world.both(["promote", "one"], ["abort", "no", "other"])
    assert "ok" in abort and ("ok" in promote or promote["error"] == "Refused")
    yield []


@dataclass(frozen=True)
class Case:
    """A rollout of `version`; once the ledger has `at`, the fault happens; it ends with `verdict`."""

    fault: Callable[[World], AbstractContextManager[list[float]]]
    version: str = "challenger"
    at: str = "step"
    verdict: str = "PROMOTE"
    cause: str = "promotion"
    blame: tuple[str | None, ...] = (None,)


CASES = [
    Case(garbage_and_no_room_for_the_log, "moody", "running", "ROLLBACK", "evidence", ("errors",)),
    Case(hanging_and_mlflow_hangs, "moody", "running", "ROLLBACK", "evidence", ("timeouts",)),
    Case(leaking_until_killed, "moody", "step", "ROLLBACK", "evidence", ("errors", "timeouts")),
    Case(candidate_killed_in_a_pause),
    Case(replica_killed),
    Case(serve_killed),
    Case(mlflow_down_and_two_promote),
    Case(no_room_for_the_controller),
    Case(promote_and_abort, verdict="ROLLBACK", cause="order"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault.__name__)
def test_fault(world: World, case: Case) -> None:
    champion, after = world.champion, world.last_entry()
    version = world.challenger() if case.version == "challenger" else world.versions[case.version]
    excused: list[float] = []
    with steady(world.load, excused):
        world.start(version)
        world.reaches(case.at, after)
        with case.fault(world) as moments:
            excused += moments
            end = world.ends(after)
        assert (end["verdict"], end["cause"]) == (case.verdict, case.cause), end
        assert end["blame"] in case.blame
        expected = PROMOTED if case.verdict == "PROMOTE" else ROLLED_BACK
        assert [k for k in world.kinds(after) if k in expected] == expected
        world.agree(after, version if case.verdict == "PROMOTE" else champion)


def test_a_package_that_does_not_load(world: World) -> None:
    """First when the candidate starts; then, mended for its start, in the replicas that shall promote it."""
    champion, version = world.champion, world.versions["moody"]
    package = Path(world.do("stage", version=version))
    file = max(
        (p for p in package.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    whole = file.read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    with steady(world.load), ExitStack() as mended:
        mended.callback(file.write_bytes, whole)
        after = world.last_entry()
        file.write_bytes(damaged)
        world.start(version)
        end = world.ends(after)
        assert (end["verdict"], end["cause"]) == ("ROLLBACK", "start"), end
        world.agree(after, champion)

        after = world.last_entry()
        file.write_bytes(whole)
        world.start(version)
        world.reaches("running", after)
        file.write_bytes(damaged)
        world.order("promote", "test")
        end = world.ends(after)
        assert (end["verdict"], end["cause"]) == ("ROLLBACK", "load"), end
        world.agree(after, champion)


def test_the_controller_killed_at_ten_points(world: World) -> None:
    """After each entry of a promotion and of a rollback, a random number of requests later."""
    chance = random.Random(4)
    for version, points, expected in (
        ("challenger", PROMOTED, PROMOTED),
        ("moody", ROLLED_BACK, ROLLED_BACK),
    ):
        champion, after = world.champion, world.last_entry()
        chosen = world.challenger() if version == "challenger" else world.versions[version]
        with steady(world.load), ExitStack() as faults:
            world.start(chosen)
            for point in points:
                world.reaches(point, after)
                if point == "running" and version == "moody":
                    faults.enter_context(world.misbehaving("raises"))
                world.load.more(chance.randint(1, 120))
                term, pid = world.last_term(), world.controller()
                world.kill(pid)
                eventually("a new controller is in charge", lambda before=term: world.last_term() > before)
            end = world.ends(after)
            assert end["verdict"] == ("PROMOTE" if expected is PROMOTED else "ROLLBACK"), end
            assert end["blame"] == (None if expected is PROMOTED else "errors")
            assert [k for k in world.kinds(after) if k not in NOISE] == expected
            world.agree(after, chosen if expected is PROMOTED else champion)


def test_two_start_at_once_a_version_that_raises(world: World) -> None:
    champion, after, version = world.champion, world.last_entry(), world.versions["moody"]
    specs = [{"versions": [version], "mode": "canary", "force": True, "by": by} for by in ("one", "other")]
    with steady(world.load):
        answers = world.both(*(["start", spec] for spec in specs))
        assert sorted(answer.get("error", "") for answer in answers) == ["", "Refused"], answers
        world.reaches("running", after)
        with world.misbehaving("raises"):
            end = world.ends(after)
        assert (end["verdict"], end["cause"], end["blame"]) == ("ROLLBACK", "evidence", "errors"), end
        assert [k for k in world.kinds(after) if k not in NOISE] == ROLLED_BACK
        world.agree(after, champion)
