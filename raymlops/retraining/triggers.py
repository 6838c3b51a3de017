"""What is a reason to retrain, and whether now is the time. Pure: equal inputs give equal decisions.

A case is a reason with a name, its incident. Every incident gets one retraining, whatever comes of it: an alarm that
goes on after its retraining was refused or rolled back is no new reason, because the same data would give the same
model. Where that one came so early that many of its rows are older than the change, the plan has a second part: one
follow-up, when the change fills a window. It is written down with the first, and held back by the same limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from raymlops.config.retraining import RetrainingConfig, span
from raymlops.monitoring.signals import Observation
from raymlops.retraining.policy_types import Action, Case, Cause, Decision, Facts, FollowUp, Past

WEEK = 7 * 86_400.0


def decide(policy: RetrainingConfig, past: Past, seen: Observation, facts: Facts, now: float) -> Decision:
    """Whether to retrain at `now`, seconds since 1970.

    Holds for any sequence of observations: an incident triggers once, and once more if that was planned; an alarm that
    is younger than `debounce`, or whose change is younger than its window allows, does not; and unless it is forced, no
    retraining begins within `cooldown` of the last one's end, in `quiet_hours`, or as more than the `max_per_week`th
    within seven days. While one is under way, none begins at all.
    """
    cases = list(_cases(policy, past, seen, facts, now))
    names = tuple(sorted({case.incident for case in cases} | {s.incident for s in seen.alarms if s.incident}))
    if facts.busy is not None:
        return Decision(Action.WAIT, "busy", facts.busy, open=names)
    fresh = [case for case in cases if case.incident not in past.handled]
    if not fresh:
        return _nothing(cases, seen, names)
    ripe = [case for case in fresh if _unripe(policy, past, case, now) is None]
    ripe.sort(key=lambda case: not case.force)
    chosen = (ripe or fresh)[0]
    held = _unripe(policy, past, chosen, now)
    if held is None and not chosen.force:
        held = _quiet(policy, now) or _cooldown(policy, past, now) or _budget(policy, past, now)
    if held is None and facts.short is not None:  # also by force: it would fail
        held = "too_little", facts.short
    about: dict[str, Any] = {
        "cause": chosen.cause,
        "incident": chosen.incident,
        "since": chosen.since,
        "numbers": chosen.numbers,
        "open": names,
    }
    if held is not None:
        return Decision(Action.WAIT, held[0], f"{held[1]}; {chosen.cause}: {chosen.reason}", **about)
    # A follow-up that is not due yet stays planned, whatever is retrained meanwhile on a part of its days.
    covered = [case for case in fresh if case is chosen or case.cause != "follow_up" or case in ripe]
    covers = tuple(dict.fromkeys(case.incident for case in (chosen, *covered)))
    plan = next((found for case in covered if (found := _plan(policy, case)) is not None), None)
    return Decision(Action.RETRAIN, "due", f"{chosen.cause}: {chosen.reason}", covers=covers, follow_up=plan, **about)


def _cases(policy: RetrainingConfig, past: Past, seen: Observation, facts: Facts, now: float) -> Iterator[Case]:
    """Reasons to retrain, the weightiest first."""
    triggers = policy.triggers
    numbers: dict[str, Any]
    for order in facts.orders:
        numbers = {"order": order.id, "by": order.by}
        yield Case("order", f"order-{order.id}", f"{order.reason} (by {order.by})", numbers, force=order.force)
    for kind, wanted in (("degradation", triggers.degradation), ("drift", triggers.drift)):
        for signal in seen.alarms if wanted else []:
            if signal.kind == kind and signal.incident is not None:
                cause: Cause = "degradation" if kind == "degradation" else "drift"
                days = _days(signal.since, signal.window)
                yield Case(cause, signal.incident, signal.reason, signal.numbers, signal.since, days)
    if past.follow_up is not None and policy.follow_up:
        plan = past.follow_up
        days = _days(plan.since, max((s.window for s in seen.signals if s.kind == plan.cause), default=""))
        reason = f"planned when {plan.of} was answered on the few days that there were"
        yield Case("follow_up", plan.incident, reason, {"of": plan.of}, plan.since, days or 0)
    if triggers.schedule is not None and (due := last_due(triggers.schedule, now)) > past.opened:
        stamp = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%MZ")
        numbers = {"schedule": triggers.schedule, "due": due}
        yield Case("schedule", f"schedule-{stamp}", f"{triggers.schedule!r} came due at {stamp}", numbers)
    came = [
        f"{found:,} new {what}, {least:,} are enough"
        for what, found, least in (
            ("rows", facts.new_rows, triggers.rows),
            ("partitions", facts.new_partitions, triggers.partitions),
        )
        if least is not None and found is not None and found >= least
    ]
    if came:
        numbers = {"new_rows": facts.new_rows, "new_partitions": facts.new_partitions}
        yield Case("data", f"data-{len(past.began) + 1}", " and ".join(came), numbers)


def last_due(schedule: str, now: float) -> float:
    """The last time at or before `now` that the cron expression names, in UTC; minus infinity if there was none."""
    from cronsim import CronSim

    # Looking back it skips the moment it is given, down to the minute.
    start = datetime.fromtimestamp(now + 60.0, UTC).replace(second=0, microsecond=0)
    found = next(CronSim(schedule, start, reverse=True), None)
    return float("-inf") if found is None else found.timestamp()


def _days(since: str | None, last: str) -> int | None:
    """From `since` to `last`, both included."""
    if since is None or not last:
        return None
    return (date.fromisoformat(last) - date.fromisoformat(since)).days + 1


def _unripe(policy: RetrainingConfig, past: Past, case: Case, now: float) -> tuple[str, str] | None:
    """Why an alarm is too young: retrained at once, a model would hardly see what changed, and be judged on it."""
    if case.cause not in ("degradation", "drift", "follow_up"):
        return None
    if case.cause != "follow_up" and now - past.seen.get(case.incident, now) < policy.debounce.total_seconds():
        return "debounce", f"the alarm has to last {policy.debounce}"
    window = policy.window
    least = window.days
    if policy.follow_up:
        least = window.holdout_days + (window.days if case.cause == "follow_up" else window.validation_days)
    if window.mode == "since_change" and case.days is not None and case.days < least:
        # No count of days: a look that says the same is not written again, and the count would be that of the first.
        return "too_little", f"the change began on {case.since}, and {least} days of it have to be labelled"
    return None


def _plan(policy: RetrainingConfig, case: Case) -> FollowUp | None:
    """The follow-up that a case needs when it is answered now."""
    if not policy.follow_up or policy.window.mode != "since_change" or case.since is None or case.days is None:
        return None
    if case.cause not in ("degradation", "drift") or case.days >= policy.window.days:
        return None
    return FollowUp(case.incident, "degradation" if case.cause == "degradation" else "drift", case.since)


def _quiet(policy: RetrainingConfig, now: float) -> tuple[str, str] | None:
    at = datetime.fromtimestamp(now, UTC).time()
    for hours in policy.quiet_hours:
        begin, end = span(hours)
        if begin <= at < end if begin < end else at >= begin or at < end:
            return "quiet_hours", f"none begins in the quiet hours {hours} UTC"
    return None


def _cooldown(policy: RetrainingConfig, past: Past, now: float) -> tuple[str, str] | None:
    last = max([*past.began[-1:], *([] if past.ended is None else [past.ended])], default=None)
    if last is None or now - last >= policy.cooldown.total_seconds():
        return None
    until = datetime.fromtimestamp(last + policy.cooldown.total_seconds(), UTC).strftime("%Y-%m-%d %H:%M")
    return "cooldown", f"none begins before {until} UTC, {policy.cooldown} after the last one"


def _budget(policy: RetrainingConfig, past: Past, now: float) -> tuple[str, str] | None:
    recent = sum(now - at < WEEK for at in past.began)
    if recent < policy.max_per_week:
        return None
    return "budget", f"{recent} retrainings began within seven days, {policy.max_per_week} are allowed"


def _nothing(cases: list[Case], seen: Observation, names: tuple[str, ...]) -> Decision:
    if cases:
        reason = f"{', '.join(case.incident for case in cases)} had a retraining already"
        return Decision(Action.NOTHING, "handled", reason, open=names)
    told = "; ".join(f"{signal.kind}: {signal.reason}" for signal in seen.alarms)
    reason = f"nothing that triggers; reported: {told}" if told else "no alarm, no order, nothing due"
    return Decision(Action.NOTHING, "no_cause", reason, open=names)
