"""Lines of JSON for what is worth one, and a bound on how many."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from raymlops.serving import logs
from raymlops.serving.dispatch import Breaker
from raymlops.serving.logs import configure_logging, log_event, log_left_out

Lines = Callable[[], list[dict[str, Any]]]


def test_events_are_json_lines_with_their_fields(lines: Lines) -> None:
    configure_logging(endpoint="other")
    configure_logging(endpoint="flights", replica="r1")
    log_event(logging.DEBUG, "quiet")
    log_event(logging.WARNING, "fallback", prediction_id="a\nb", variant="candidate-1")
    logging.getLogger(f"{logs.LOGGER}.replica").warning("plain %s", "text")
    first, second = lines()
    assert (first["event"], first["level"], first["prediction_id"]) == ("fallback", "warning", "a\nb")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert second["event"] == "plain text"
    assert all((line["endpoint"], line["replica"]) == ("flights", "r1") for line in (first, second))


def test_an_exception_stays_on_its_line(lines: Lines) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        configure_logging().exception("failed")
    (line,) = lines()
    assert "two\nlines" in line["exception"]


def test_a_storm_of_events_is_cut_and_counted(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for _ in range(1000):
        log_event(logging.WARNING, "fallback")
    log_event(logging.WARNING, "other")
    for _ in range(20):
        log_event(logging.INFO, "request", every=True)
    assert len(lines()) == logs.MOST_PER_SECOND + 1 + 20
    now = 101.0
    log_event(logging.WARNING, "fallback")
    log_left_out()
    log_left_out()
    again, count = lines()
    assert again["event"] == "fallback"
    assert (count["event"], count["of"], count["level"]) == ("left_out", "fallback", "warning")
    assert count["lines"] == 1000 - logs.MOST_PER_SECOND


def test_a_breaker_says_once_that_it_opened_and_once_that_it_closed() -> None:
    told: list[bool] = []
    breaker = Breaker(2, 1.0, told.append)
    breaker.record(True, 0.0)
    for now in (0.0, 0.1, 0.2, 1.3):
        breaker.record(False, now)
    breaker.record(True, 3.0)
    breaker.record(True, 3.1)
    assert told == [True, False]
