"""What a replica tells the controller: by the arm that was assigned, in order, and until it is safe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from raymlops.rollout.evidence import Report
from raymlops.rollout.totals import BOUNDS
from raymlops.serving.accounts import Accounts
from raymlops.serving.document import Arm, LatencyRule, ModelRef, QualityRule, RoutingDocument
from raymlops.serving.outbox import Outbox
from raymlops.serving.router import Router

A, B = ModelRef("m", "1", "a" * 64), ModelRef("m", "2", "b" * 64)
ALONE = RoutingDocument("m", term=1, version=1, champion=A)
CANARY = replace(
    ALONE,
    version=2,
    rollout="r1",
    arms=(Arm(A), Arm(B, "app")),
    shares=(5_000,),
    salt="s",
    epoch=1,
    counted=True,
    rates={"errors": "errors", "any": "fallbacks"},
    latency=(LatencyRule("latency", 0.010, 1.2, 0.003),),
    quality=(QualityRule("quality", 1.0),),
)
BUDGET, TIMEOUT = 0.25, 10.0


def accounts(document: RoutingDocument = CANARY) -> Accounts:
    made = Accounts("replica", BUDGET, TIMEOUT)
    made.follow(document, 0.0)
    return made


def request(books: Accounts, key: str, event: str | None, seconds: float, document: RoutingDocument = CANARY) -> int:
    stamp = Router(document).route(key)
    books.finished(document, stamp.arm, books.routed(document, stamp, 100.0), event, seconds)
    return stamp.arm


def key_of(arm: int) -> str:
    router = Router(CANARY)
    return next(key for key in map(str, range(1000)) if router.route(key).arm == arm)


def sent(message: dict[str, Any] | None) -> dict[str, Any]:
    assert message is not None
    return orjson.loads(orjson.dumps(message))


def test_a_fallback_stays_with_the_arm_that_was_assigned() -> None:
    books = accounts()
    assert request(books, key_of(1), "errors", 0.001) == 1
    message = sent(books.take(101.0))
    report = Report.from_dict({"replica": "r", "sequence": 1, **message["report"]})
    assert {(event.arm, event.metric) for event in report.events} == {(1, "errors"), (1, "any"), (1, "latency")}
    (totals,) = message["totals"]
    assert (totals["arm"], totals["requests"], totals["errors"], totals["fallbacks"]) == (1, 1, 1, 1)
    assert message["latencies"] == [[1, BUDGET]], "one that fell back took at least the budget"
    assert len(totals["latency"]) == len(BOUNDS) + 1 and sum(totals["latency"]) == 1


def test_latency_thresholds_are_by_arm() -> None:
    books = accounts()
    for arm in (0, 1):
        request(books, key_of(arm), None, 0.014)  # above the threshold of control, below 1.2 times that and 3 ms
    events = sent(books.take(101.0))["report"]["events"]
    assert [(event["arm"], event["metric"]) for event in events] == [(0, "latency")]


def test_first_requests_follow_when_it_is_certain_what_became_of_them() -> None:
    books = accounts()
    for _ in range(3):
        request(books, key_of(0), None, 0.001)
    assert sent(books.take(101.0))["report"]["first_requests"] == []
    (first,) = sent(books.take(100.0 + TIMEOUT))["report"]["first_requests"]
    assert (first["arm"], first["events"], first["count"]) == (0, [], 1)
    assert books.take(200.0) is None


def test_warm_up_is_counted_for_people_and_not_as_evidence() -> None:
    warm = replace(CANARY, counted=False)
    books = accounts(warm)
    request(books, "k", "errors", 0.1, warm)
    message = sent(books.take(101.0))
    assert message["report"]["events"] == [] and message["totals"][0]["errors"] == 1
    assert sent(books.take(120.0) or {"report": None})["report"] is None


def test_without_a_rollout_latencies_are_sampled_and_bounded() -> None:
    books = accounts(ALONE)
    for n in range(1000):
        request(books, str(n), None, n / 1000, ALONE)
    message = sent(books.take(101.0))
    assert message["rollout"] is None and message["report"] is None
    assert len(message["latencies"]) == 256
    assert sum(seconds for _, seconds in message["latencies"]) / 256 > 0.35, "a sample of all, not the first"
    assert message["totals"][0]["epoch"] == -1 and message["totals"][0]["requests"] == 1000


def test_facts_of_two_rollouts_are_never_mixed() -> None:
    books = accounts()
    stamp = Router(CANARY).route("k")
    routed = books.routed(CANARY, stamp, 100.0)
    request(books, "j", "errors", 0.001)
    last = books.follow(replace(CANARY, version=3, rollout="r2", salt="t"), 101.0)
    assert sent(last)["rollout"] == "r1"
    books.finished(CANARY, stamp.arm, routed, "errors", 0.1)  # ends after its rollout
    assert books.take(102.0) is None


def test_predictions_are_kept_for_labels_once_per_key() -> None:
    books = accounts()
    for number in range(2):
        stamp = Router(CANARY).route("k")
        books.predicted(CANARY, books.routed(CANARY, stamp, 100.0), f"p{number}", 1.5)
    books.labelled("p0", 2.0, 150.0, None)
    message = sent(books.take(151.0))
    assert [row[0] for row in message["predictions"]] == ["p0"] and message["predictions"][0][5] == 1.5
    assert message["labels"] == [["p0", 2.0, 150.0, None]]


def test_messages_are_kept_until_durable_and_sent_again_on_request() -> None:
    box = Outbox("r")
    for n in range(3):
        box.add({"n": n})
    first = orjson.loads(box.next_message() or b"")
    assert (first["sequence"], first["held_from"], first["n"]) == (1, 1, 0)
    box.answered(durable=0, expected=2)
    box.answered(durable=1, expected=3)
    assert orjson.loads(box.next_message() or b"")["sequence"] == 3 and len(box) == 2
    box.answered(durable=1, expected=2)  # the controller was restarted and lost the second
    again = orjson.loads(box.next_message() or b"")
    assert (again["sequence"], again["held_from"]) == (2, 2)
    box.answered(durable=3, expected=4)
    assert box.next_message() is None and len(box) == 0 and box.reminder() is None


def test_what_is_taken_but_not_durable_can_be_asked_for() -> None:
    box = Outbox("r")
    box.add({})
    box.answered(durable=0, expected=2)
    assert box.next_message() is None and box.unsent == 0
    assert orjson.loads(box.reminder() or b"")["sequence"] == 1


def test_the_outbox_is_bounded() -> None:
    box = Outbox("r", most_bytes=1000)
    for n in range(100):
        box.add({"filler": "x" * 100, "n": n})
    assert box.dropped > 80 and len(box) < 20
    oldest = orjson.loads(box.next_message() or b"")
    assert oldest["sequence"] == oldest["held_from"] == box.dropped + 1
