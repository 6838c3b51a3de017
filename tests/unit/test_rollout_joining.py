"""Labels and the predictions of a rollout that they belong to."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from raymlops.rollout.joining import DELIVERY_SECONDS, MAX_PREDICTIONS, LabelJoin

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
