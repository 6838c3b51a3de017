"""The policy of retrainings, for any sequence of looks, and for the cases that people will ask about."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_cases import config

from raymlops.chain import Entry
from raymlops.config.retraining import RetrainingConfig, span
from raymlops.errors import ConfigError
from raymlops.monitoring.signals import Observation, Signal
from raymlops.retraining.journal import State
from raymlops.retraining.policy_types import Action, Decision, Facts, FollowUp, Order, Past
from raymlops.retraining.triggers import WEEK, decide, last_due

DAY = 86_400.0
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC).timestamp()  # a Monday


def alarm(kind: Any = "degradation", since: str = "2026-03-01", version: str = "1") -> Signal:
    return Signal.raised(kind, version, "2026-03-02", since, "the error rose", {"loss": 2.0})


def look(*alarms: Signal, at: float = MIDNIGHT) -> Observation:
    return Observation("flights", "1", at, list(alarms), 10, 10, "2026-03-02")


def policy(**changes: Any) -> RetrainingConfig:
    return RetrainingConfig.model_validate({"window": {"mode": "sliding"}, **changes})


def ask(seen: Observation, past: Past | None = None, now: float = MIDNIGHT, facts: Facts | None = None, **changes: Any):
    return decide(policy(**changes), past or Past(opened=0.0), seen, facts or Facts(), now)


class Simulated:
    """A ledger in memory, kept as the loop keeps it."""

    def __init__(self, rules: RetrainingConfig) -> None:
        self.rules, self.state, self.decisions = rules, State(), list[tuple[float, Decision]]()
        self.written, self.ends = 0, 0.0

    def write(self, kind: str, payload: dict[str, Any], at: float) -> None:
        state = self.state
        state.apply(Entry(state.n + 1, state.term, at, kind, payload, state.head))
        self.written += 1

    def look(self, seen: Observation, facts: Facts, now: float, took: float) -> Decision:
        if self.state.opened is None:
            self.write("opened", {"rows": 0, "partitions": 0}, now)
        current = self.state.open
        if current is not None and now >= self.ends:
            self.write("ended", {"outcome": "promoted", "reason": ""}, now)
            current = None
        busy = None if current is None else f"{current.id} is under way"
        facts = Facts(busy, facts.orders, facts.new_rows, facts.new_partitions)
        found = decide(self.rules, self.state.past(), seen, facts, now)
        self.decisions.append((now, found))
        if found.action is Action.RETRAIN:
            self.write("began", {"decision": found.to_dict(), "champion": "1", "recipe": {}, "by": {}}, now)
            self.ends = now + took
        elif self.state.decision is None or found.key != _key(self.state.decision):
            self.write("decision", found.to_dict(), now)
        return found


def _key(payload: dict[str, Any]) -> tuple[Any, ...]:
    return payload["action"], payload["code"], payload["incident"], tuple(payload["open"])


names = st.sampled_from(["2026-03-01", "2026-03-05", "2026-04-01"])
alarms = st.lists(st.builds(alarm, st.sampled_from(["degradation", "drift", "quality", "estimate"]), names), max_size=3)
orders = st.lists(st.builds(Order, st.sampled_from("abcdef"), st.just(0.0), st.just("me"), st.just("why")), max_size=2)
looks = st.lists(
    st.tuples(st.floats(60.0, 3 * DAY), alarms, orders, st.integers(0, 200), st.floats(0.0, 2 * DAY)),
    min_size=1,
    max_size=40,
)
policies = st.builds(
    policy,
    debounce=st.sampled_from([0, 3600, 2 * DAY]),
    cooldown=st.sampled_from([0, 3600, 3 * DAY]),
    max_per_week=st.integers(1, 3),
    quiet_hours=st.sampled_from([[], ["22:00-06:00"], ["12:00-13:30", "00:00-01:00"]]),
    triggers=st.fixed_dictionaries(
        {},
        optional={
            "degradation": st.booleans(),
            "drift": st.booleans(),
            "rows": st.sampled_from([None, 100]),
            "schedule": st.sampled_from([None, "0 3 * * 1", "*/30 * * * *"]),
        },
    ),
)


@settings(max_examples=300)
@given(policies, looks)
def test_the_limits_hold_for_any_sequence_of_looks(rules: RetrainingConfig, sequence: list[Any]) -> None:
    ledger, now = Simulated(rules), MIDNIGHT
    first_seen: dict[str, float] = {}
    open_until: float | None = None
    began: list[float] = []
    used: set[str] = set()
    for pause, found, ordered, rows, took in sequence:
        now += pause
        seen = look(*found, at=now)
        visible = {s.incident for s in found if s.incident}
        first_seen = {name: first_seen.get(name, now) for name in visible}
        ended = ledger.state.past().ended
        decision = ledger.look(seen, Facts(None, tuple(ordered), rows), now, took)
        if open_until is not None and now >= open_until:
            ended, open_until = now, None
        if decision.action is not Action.RETRAIN:
            continue
        assert open_until is None, "one at a time"
        assert not used & set(decision.covers), "one retraining per incident"
        used |= set(decision.covers)
        if decision.cause in ("degradation", "drift"):
            assert decision.incident is not None and decision.incident in visible
            assert now - first_seen[decision.incident] >= rules.debounce.total_seconds()
            assert getattr(rules.triggers, decision.cause)
        last = max([*began[-1:], *([ended] if ended is not None else [])], default=float("-inf"))
        assert now - last >= rules.cooldown.total_seconds()
        assert sum(now - at < WEEK for at in began) < rules.max_per_week
        at = datetime.fromtimestamp(now, UTC).time()
        for begin, end in map(span, rules.quiet_hours):
            assert not (begin <= at < end if begin < end else at >= begin or at < end)
        began.append(now)
        open_until = now + took


@settings(max_examples=100)
@given(policies, alarms, st.integers(2, 30))
def test_looks_that_say_the_same_are_written_once(rules: RetrainingConfig, found: list[Signal], times: int) -> None:
    ledger, now = Simulated(rules.model_copy(update={"triggers": policy().triggers, "quiet_hours": []})), MIDNIGHT
    for _ in range(times):
        now += 60.0
        ledger.look(look(*found, at=now), Facts(), now, took=1e9)
    assert ledger.written <= 5


def test_a_degradation_triggers_and_drift_is_only_reported() -> None:
    decision = ask(look(alarm("drift"), alarm("degradation")))
    assert (decision.action, decision.cause, decision.since) == (Action.RETRAIN, "degradation", "2026-03-01")
    assert decision.covers == ("degradation-1-2026-03-01",)
    reported = ask(look(alarm("drift")))
    assert (reported.action, reported.code) == (Action.NOTHING, "no_cause")
    assert "reported: drift: the error rose" in reported.reason and reported.open == ("drift-1-2026-03-01",)
    assert ask(look(alarm("drift")), triggers={"drift": True}).action is Action.RETRAIN
    assert ask(look(alarm("estimate"), alarm("quality")), triggers={"drift": True}).action is Action.NOTHING


def test_a_window_that_begins_with_the_change_waits_for_enough_of_it() -> None:
    window = {"window": {"days": 28}, "follow_up": False}
    young = ask(look(alarm()), **window)
    assert (young.action, young.code) == (Action.WAIT, "too_little")
    assert "the change began on 2026-03-01, and 28 days of it have to be labelled" in young.reason
    assert ask(look(alarm(since="2026-02-04")), **window).code == "too_little"
    assert ask(look(alarm(since="2026-02-03")), **window).action is Action.RETRAIN
    assert ask(look(alarm()), window={"mode": "expanding"}, follow_up=False).action is Action.RETRAIN
    order = Facts(orders=(Order("a", 0.0, "me", "now"),))
    assert ask(look(alarm()), facts=order, **window).cause == "order", "people need not wait"


def on(day: str, *alarms: Signal, since: str | None = None) -> tuple[Observation, float]:
    """A look on the morning after a day was judged; `since` raises the alarm about it."""
    at = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + DAY
    raised = [] if since is None else [Signal.raised("degradation", "1", day, since, "the error rose", {})]
    quiet = Signal("degradation", False, day, None, "as at registration")
    return Observation("flights", "1", at, [*raised, *alarms] or [quiet], 10, 10, day), at


def test_a_young_change_is_answered_early_and_once_more_when_it_is_old() -> None:
    rules = policy(window={"days": 28, "validation_days": 7, "holdout_days": 7}, cooldown=0)
    ledger = Simulated(rules)

    def decided(day: str, since: str | None = None, *ordered: Order) -> Decision:
        seen, at = on(day, since=since)
        return ledger.look(seen, Facts(None, ordered), at, took=3600.0)

    early = decided("2026-03-13", "2026-03-01")
    assert (early.code, "and 14 days of it" in early.reason) == ("too_little", True)
    first = decided("2026-03-14", "2026-03-01")
    assert (first.action, first.cause) == (Action.RETRAIN, "degradation")
    plan = FollowUp("degradation-1-2026-03-01", "degradation", "2026-03-01")
    assert first.follow_up == plan and first.to_dict()["follow_up"] == vars(plan)
    fresh = Observation("flights", "2", 0.0, [Signal("degradation", False, "", None, "nothing judged yet")], 0, 0, None)
    unknown = decide(rules, ledger.state.past(), fresh, Facts(), on("2026-03-16")[1])
    assert unknown.reason.startswith(
        "the change began on 2026-03-01, and 35 days of it have to be labelled; follow_up: "
    )
    waiting = decided("2026-04-03")
    assert (waiting.code, waiting.cause) == ("too_little", "follow_up")
    assert "and 35 days of it have to be labelled" in waiting.reason and plan.of in waiting.reason
    ordered = decided("2026-04-03", None, Order("a", 0.0, "me", "now"))
    assert (ordered.cause, ordered.covers) == ("order", ("order-a",)), "it has not seen more of the change"
    last = decided("2026-04-04")
    assert (last.action, last.cause, last.since) == (Action.RETRAIN, "follow_up", "2026-03-01")
    assert last.covers == ("degradation-1-2026-03-01-follow-up",) and last.follow_up is None
    assert decided("2026-04-30").action is Action.NOTHING
    assert decided("2026-05-01", "2026-03-01").code == "handled"


def test_an_old_change_and_other_windows_need_no_follow_up() -> None:
    rules = {"window": {"days": 28, "validation_days": 7, "holdout_days": 7}}
    old, at = on("2026-03-28", since="2026-03-01")
    assert ask(old, now=at, **rules).follow_up is None
    young, at = on("2026-03-14", since="2026-03-01")
    assert ask(young, now=at, **rules).follow_up is not None
    for other in ({"window": {"mode": "sliding"}}, {"window": {"mode": "expanding"}}, {**rules, "follow_up": False}):
        assert ask(young, now=at, **other).follow_up is None


moments = st.lists(
    st.tuples(st.integers(1, 20), st.none() | st.sampled_from(["2026-03-02", "2026-03-20", "2026-05-01"]), orders),
    max_size=30,
)


@settings(max_examples=200)
@given(moments, st.integers(1, 3))
def test_an_incident_has_two_retrainings_at_most_and_the_second_only_by_plan(found: list[Any], budget: int) -> None:
    rules = policy(window={"days": 28, "validation_days": 7, "holdout_days": 7}, cooldown=0, max_per_week=budget)
    ledger, day = Simulated(rules), date(2026, 3, 2)
    planned: set[str] = set()
    answered: list[str] = []
    for pause, since, ordered in found:
        day += timedelta(days=pause)
        seen, at = on(str(day), since=since if since is not None and since <= str(day) else None)
        decision = ledger.look(seen, Facts(None, tuple(ordered)), at, took=60.0)
        if decision.action is not Action.RETRAIN:
            continue
        if decision.cause in ("degradation", "follow_up"):
            assert decision.since is not None and decision.incident is not None
            age = (day - date.fromisoformat(decision.since)).days + 1
            assert age >= (14 if decision.cause == "degradation" else 35)
        follow_ups = [name for name in decision.covers if name.endswith("-follow-up")]
        assert planned.issuperset(follow_ups), "none without a plan"
        if decision.follow_up is not None:
            assert decision.follow_up.of in decision.covers
            planned.add(decision.follow_up.incident)
        answered += decision.covers
    assert len(answered) == len(set(answered))
    assert len(ledger.state.retrainings) <= len(answered)


def test_an_incident_is_answered_once() -> None:
    past = Past(opened=0.0, began=(0.0,), ended=1.0, handled=frozenset({"degradation-1-2026-03-01"}))
    decision = ask(look(alarm()), past)
    assert (decision.action, decision.code) == (Action.NOTHING, "handled")
    again = ask(look(alarm(), alarm(since="2026-03-09")), past)
    assert again.action is Action.RETRAIN and again.covers == ("degradation-1-2026-03-09",)


def test_one_retraining_answers_everything_that_is_known() -> None:
    facts = Facts(orders=(Order("a", 0.0, "me", "new labels"),))
    decision = ask(look(alarm("drift"), alarm()), facts=facts, triggers={"drift": True})
    assert decision.covers == ("order-a", "degradation-1-2026-03-01", "drift-1-2026-03-01")


@pytest.mark.parametrize(
    ("code", "changes", "past", "words"),
    [
        ("debounce", {"debounce": "PT2H"}, {"seen": {"degradation-1-2026-03-01": MIDNIGHT - 3600}}, "last 2:00:00"),
        ("quiet_hours", {"quiet_hours": ["23:00-01:00"]}, {}, "quiet hours 23:00-01:00 UTC"),
        ("cooldown", {}, {"began": (MIDNIGHT - 7200,), "ended": MIDNIGHT - 3600}, "before 2026-03-02 23:00 UTC"),
        (
            "budget",
            {},
            {"began": (MIDNIGHT - 3 * DAY, MIDNIGHT - 2 * DAY), "ended": MIDNIGHT - 2 * DAY},
            "2 are allowed",
        ),
    ],
)
def test_what_holds_it_back_is_said(code: str, changes: Any, past: dict[str, Any], words: str) -> None:
    decision = ask(look(alarm()), Past(opened=0.0, **past), **changes)
    assert (decision.action, decision.code, decision.incident) == (Action.WAIT, code, "degradation-1-2026-03-01")
    assert words in decision.reason and "the error rose" in decision.reason


def test_an_order_waits_as_everything_else_unless_it_is_forced() -> None:
    past = Past(opened=0.0, began=(MIDNIGHT - 60,), ended=MIDNIGHT - 30)
    plain, forced = Order("a", 0.0, "me", "why"), Order("b", 0.0, "me", "now", force=True)
    assert ask(look(), past, facts=Facts(orders=(plain,))).code == "cooldown"
    decision = ask(look(), past, facts=Facts(orders=(plain, forced)))
    assert (decision.action, decision.incident) == (Action.RETRAIN, "order-b")
    assert decision.covers == ("order-b", "order-a")
    assert ask(look(), past, facts=Facts("r1 is under way", (forced,))).code == "busy"
    assert ask(look(), past, facts=Facts(orders=(forced,), short="it takes 15 days")).code == "too_little"


def test_a_schedule_counts_once_however_often_it_came_due() -> None:
    rules = {"triggers": {"schedule": "0 3 * * *"}, "cooldown": 0}
    opened = Past(opened=MIDNIGHT - 5 * DAY)
    decision = ask(look(), opened, now=MIDNIGHT + 4 * 3600, **rules)
    assert (decision.action, decision.incident) == (Action.RETRAIN, "schedule-2026-03-02T03:00Z")
    handled = Past(opened=opened.opened, handled=frozenset(decision.covers))
    assert ask(look(), handled, now=MIDNIGHT + 5 * 3600, **rules).action is Action.NOTHING
    assert ask(look(), Past(opened=MIDNIGHT + 3.5 * 3600), now=MIDNIGHT + 4 * 3600, **rules).action is Action.NOTHING


@pytest.mark.parametrize(("second", "due"), [(-1, MIDNIGHT - DAY), (0, MIDNIGHT), (59, MIDNIGHT), (61, MIDNIGHT)])
def test_the_minute_that_a_schedule_names_counts_at_once(second: int, due: float) -> None:
    assert last_due("0 0 * * *", MIDNIGHT + second) == due


def test_new_data_triggers_when_there_is_enough() -> None:
    rules = {"triggers": {"rows": 1000, "partitions": 7}}
    assert ask(look(), facts=Facts(new_rows=999, new_partitions=6), **rules).action is Action.NOTHING
    decision = ask(look(), facts=Facts(new_rows=1000, new_partitions=1), **rules)
    assert decision.cause == "data" and "1,000 new rows" in decision.reason
    assert ask(look(), facts=Facts(new_rows=10**9), triggers={}).action is Action.NOTHING


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"triggers": {"schedule": "every day"}}, "expected a cron expression such as"),
        ({"quiet_hours": ["25:00-26:00"]}, "hour must be in 0..23"),
        ({"quiet_hours": ["06:00-06:00"]}, "expected two different times"),
        ({"window": {"days": 14}}, "so that days to train on remain"),
        ({"cooldown": -1}, "greater than or equal to"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        config(retraining=section)
