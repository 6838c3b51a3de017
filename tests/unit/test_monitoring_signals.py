"""What a look says, written and read back."""

from __future__ import annotations

import json

import pytest

from raymlops.errors import IntegrityError
from raymlops.monitoring.signals import Observation, Signal

QUIET = Signal("drift", False, "2025-03-04", None, "no drift", {"evidence": 1.5, "moved": []})
ALARM = Signal.raised("degradation", "7", "2025-03-05", "2025-03-03", "mean loss 0.1 → 0.2", {"mean": 0.2})
SEEN = Observation("flights", "7", 1_741_000_000.0, [QUIET, ALARM], 1200, 800, "2025-03-05")


def test_an_alarm_is_named_by_kind_version_and_the_day_since_when():
    assert ALARM.incident == "degradation-7-2025-03-03"
    assert Signal.raised("drift", "7", "2025-03-05", None, "", {}).incident == "drift-7-2025-03-05"
    assert SEEN.alarms == [ALARM]


def test_an_observation_goes_through_json_unchanged():
    assert Observation.from_dict(json.loads(json.dumps(SEEN.to_dict()))) == SEEN


@pytest.mark.parametrize(
    "damage",
    [{"signals": None}, {"signals": [{"kind": "drift"}]}, {"surprise": 1}],
)
def test_something_else_is_refused(damage):
    with pytest.raises(IntegrityError, match="observation: cannot be read"):
        Observation.from_dict({**SEEN.to_dict(), **damage})


def test_an_unknown_kind_of_signal_is_named():
    data = SEEN.to_dict()
    data["signals"][0]["kind"] = "weather"
    with pytest.raises(
        IntegrityError, match="expected one of degradation, drift, quality, labels, estimate, found 'weather'"
    ):
        Observation.from_dict(data)
