"""Candidates that misbehave, die or are promoted under traffic, behind HAProxy: nobody gets a failed request for it."""

from __future__ import annotations

import http.client
import math
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hand_client import Hand, Traffic, body, eventually
from serving_models import NAME, register

REPLICAS = 2
VERSIONS = ("raises", "hangs", "garbage", "slow")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Registered while the endpoint starts."""
    root = tmp_path_factory.mktemp("traffic")
    found: dict[str, Any] = {"root": root, "champion": register(root)}
    found["hand"] = Hand(root, REPLICAS)
    for behaviour in VERSIONS:
        found[behaviour] = register(root, behaviour)
    found["good"] = register(root, "good", bias=100.0)
    return found


@pytest.fixture(scope="module")
def hand(versions: dict[str, Any]) -> Iterator[Hand]:
    made: Hand = versions["hand"]
    made.wait()
    yield made
    made.close()


@pytest.fixture()
def plain(hand: Hand) -> Iterator[None]:
    """Ends without a rollout."""
    yield
    hand.follow(REPLICAS)


def rollout(hand: Hand, versions: dict[str, Any], version: str, name: str, isolated: bool = True, **more: Any) -> None:
    """Half of the traffic to a candidate, counted."""
    if isolated:
        hand.do("deploy", version=versions[version])
    fields: dict[str, Any] = {
        "arms": [[versions["champion"], False], [versions[version], isolated]],
        "rollout": name,
        "salt": name,
        "shares": [5_000],
        "epoch": 1,
        "counted": True,
        "rates": {"errors": "errors", "timeouts": "timeouts", "any": "fallbacks"},
    }
    hand.follow(REPLICAS, **{**fields, **more})


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("behaviour", "isolated", "event"),
    [
        ("raises", True, "errors"),
        ("garbage", True, "errors"),
        ("hangs", True, "timeouts"),
        ("raises", False, "errors"),
    ],
)
def test_the_champion_answers_for_a_candidate_that_fails(
    hand: Hand, versions: dict[str, Any], behaviour: str, isolated: bool, event: str
) -> None:
    name = f"r-{behaviour}-{isolated}"
    rollout(hand, versions, behaviour, name, isolated)
    with Traffic(hand) as traffic:
        eventually("the candidate answers", lambda: traffic.variants["candidate-1"] > 5)
        with hand.misbehaving(behaviour):
            traffic.more(150)
    assert set(traffic.statuses) == {200} and traffic.lost == 0
    assert traffic.slowest < 3.0

    def told() -> bool:
        return bool(hand.arms(name)["1"][event] >= 3)

    eventually("the events are reported", told)
    arms = hand.arms(name)
    assert arms["0"]["fallbacks"] == 0, "what a candidate does is not counted against control"
    events = [e for e in hand.do("seen", rollout=name)["events"] if e["metric"] == event]
    assert events and {e["arm"] for e in events} == {1}
    logged = hand.do("logged")
    adopted = {line["replica"] for line in logged if line["event"] == "document" and line["rollout"] == name}
    assert len(adopted) == REPLICAS
    version = versions[behaviour]
    failed = [line for line in logged if line["event"] == "fallback" and line["version"] == version]
    assert {(line["endpoint"], line["variant"]) for line in failed} == {("trips", "candidate-1")}
    assert event in {line["reason"] for line in failed}
    assert all(line["prediction_id"] and line["replica"] for line in failed)
    if isolated:
        assert any(line["event"] == "breaker_opened" for line in logged)


@pytest.mark.usefixtures("plain")
def test_a_killed_candidate_costs_nobody_a_request_and_comes_back(hand: Hand, versions: dict[str, Any]) -> None:
    rollout(hand, versions, "good", "r-kill")
    app = hand.do("deploy", version=versions["good"])
    with Traffic(hand) as traffic:
        eventually("the candidate answers", lambda: traffic.variants["candidate-1"] > 5)
        (pid,) = hand.do("pids", app=app)
        os.kill(pid, signal.SIGKILL)
        traffic.more(100)
        before = traffic.variants["candidate-1"]
        eventually("it answers again", lambda: traffic.variants["candidate-1"] > before + 20)
    assert set(traffic.statuses) == {200} and traffic.lost == 0


@pytest.mark.usefixtures("plain")
def test_shares_and_keys(hand: Hand, versions: dict[str, Any]) -> None:
    """10 % is 10 % within binomial error; the same key stays while shares rise; a new salt draws anew."""
    more = {"salt": "one", "shares": [1_000]}
    rollout(hand, versions, "good", "r-shares", isolated=False, **more)
    keys = [f"user-{n}" for n in range(1000)]
    some = keys[:300]

    def variants(keys: list[str]) -> dict[str, str]:
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda key: hand.predict(key).headers["x-raymlops-variant"], keys)
            return dict(zip(keys, found, strict=True))

    first = variants(keys)
    chosen = [key for key in keys if first[key] == "candidate-1"]
    assert abs(len(chosen) - 100) < 4.5 * math.sqrt(1000 * 0.1 * 0.9)
    rollout(hand, versions, "good", "r-shares", isolated=False, salt="one", shares=[4_000], epoch=2)
    assert set(variants(chosen).values()) == {"candidate-1"}
    second = variants(some)
    rollout(hand, versions, "good", "r-shares", isolated=False, salt="two", shares=[4_000], epoch=3)
    third = variants(some)
    moved = Counter((second[key], third[key]) for key in some)
    assert moved["candidate-1", "champion"] > 40 and moved["champion", "candidate-1"] > 40
    seen = hand.do("seen", rollout="r-shares")
    assert not [e for e in seen["events"] if e["arm"] == 1 and e["epoch"] > 3]


@pytest.mark.usefixtures("plain")
def test_large_requests_are_not_held_against_a_healthy_candidate(hand: Hand, versions: dict[str, Any]) -> None:
    rollout(hand, versions, "good", "r-large")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: hand.predict(f"user-{n}", rows=450), range(100)))
    variants = Counter((reply.status_code, reply.headers.get("x-raymlops-variant")) for reply in replies)
    assert set(variants) == {(200, "champion"), (200, "candidate-1")} and variants[200, "candidate-1"] > 25
    eventually("they are reported", lambda: sum(hand.arms("r-large")[arm]["requests"] for arm in "01") == 100)
    assert hand.arms("r-large")["1"]["errors"] == 0


@pytest.mark.usefixtures("plain")
def test_shadow_candidates_get_copies_and_delay_nobody(hand: Hand, versions: dict[str, Any]) -> None:
    rollout(hand, versions, "slow", "r-shadow", mode="shadow", shares=[], counted=False)
    with hand.misbehaving("slow"), Traffic(hand) as traffic:
        traffic.more(200)
    assert set(traffic.variants) == {"champion"} and set(traffic.statuses) == {200}
    arm = eventually(
        "copies are compared", lambda: hand.arms("r-shadow")["1"]["compared"] > 50 and hand.arms("r-shadow")
    )
    assert arm["1"]["disagreed"] == 0, "it is the same model"


@pytest.mark.usefixtures("plain")
def test_a_promotion_swaps_without_a_failed_request_and_memory_stays_flat(hand: Hand, versions: dict[str, Any]) -> None:
    pids = hand.do("pids")
    assert len(pids) == REPLICAS
    memory: list[int] = []
    with Traffic(hand) as traffic:
        for _ in range(10):
            for version in (versions["good"], versions["champion"]):
                hand.follow(REPLICAS, resident=[version])
                eventually("the model is loaded", lambda v=version: _all_hold(hand, hand.do("stage", version=v)))
                hand.follow(REPLICAS, champion=version)
                traffic.more(5)
                memory.append(sum(psutil.Process(pid).memory_info().rss for pid in pids))
    assert set(traffic.statuses) == {200} and traffic.lost == 0
    assert set(traffic.variants) == {"champion"}
    grown = (memory[-1] - memory[5]) / len(pids) / 2**20
    assert grown < 25, f"{grown:.0f} MiB more per replica after 14 promotions: {memory}"


def _all_hold(hand: Hand, model: str) -> bool:
    sha = model.split("sha256='")[1].split("'")[0]
    replicas = sorted(hand.do("seen")["replicas"].values(), key=lambda r: r["at"])[-REPLICAS:]
    return all(sha in replica["loaded"] for replica in replicas)


def begun(hand: Hand) -> socket.socket:
    """A request whose body does not come yet: it has its place, and costs nothing."""
    connection = socket.create_connection(("127.0.0.1", hand.port), timeout=20)
    head = f"POST /v2/models/{NAME}/rows HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body(1))}\r\n\r\n"
    connection.sendall(head.encode() + body(1)[:5])
    return connection


def ended(connection: socket.socket) -> int:
    """Its status when the rest of the body has come."""
    with suppress(OSError):  # it was answered without
        connection.sendall(body(1)[5:])
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return reply.status


def test_overload_is_answered_503_with_retry_after_and_ends(hand: Hand) -> None:
    places = REPLICAS * 32
    with ExitStack() as stack:
        connections = [stack.enter_context(begun(hand)) for _ in range(2 * places)]
        found = [hand.predict() for _ in range(20)]
        assert {reply.status_code for reply in found} == {503}
        assert {reply.headers.get("retry-after") for reply in found} == {"1"}
        begun_before = Counter(map(ended, connections))
    assert begun_before == {200: places, 503: places}
    with ThreadPoolExecutor(40) as pool:
        after = Counter(reply.status_code for reply in pool.map(lambda _: hand.predict(rows=200), range(200)))
    assert set(after) <= {200, 503} and after[200] > 50
    assert hand.predict().status_code == 200


def test_a_killed_replica_loses_nothing_that_another_can_answer(hand: Hand) -> None:
    with Traffic(hand, threads=6) as traffic:
        traffic.more(50)
        pid = hand.do("pids")[0]
        os.kill(pid, signal.SIGKILL)
        traffic.more(300)
        eventually("a new replica runs", lambda: len(set(hand.do("pids")) - {pid}) == REPLICAS)
    failed = sum(n for status, n in traffic.statuses.items() if status != 200) + traffic.lost
    assert failed <= 6, f"more than were in flight: {traffic.statuses}, {traffic.lost} lost"


def test_the_log_of_the_program_tells_no_traceback(hand: Hand, versions: dict[str, Any]) -> None:
    text = (Path(versions["root"]) / "hand.log").read_text()
    assert "never retrieved" not in text
