"""The report of a model in production: what is on the page and in JSON, from plain values."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from raymlops.errors import ConfigError
from raymlops.monitor_cli import parse_since, print_summary
from raymlops.monitoring.attribution import CellShare, Moved
from raymlops.monitoring.drift import DriftFinding
from raymlops.monitoring.label_status import Coverage, LabelStatus
from raymlops.monitoring.report import Alarm, Distance, ReportData, SliceLoss, VersionDay, render_report
from raymlops.monitoring.signals import Signal

FIRST = date(2031, 3, 1)
FEATURES = ["distance", "carrier", "hour <b>", "prediction"]


def example(days: int = 50) -> ReportData:
    """A champion since day 20 that became worse on day 35, with drift of one feature."""
    draw = np.random.default_rng(1)
    names = [(FIRST + timedelta(days=n)).isoformat() for n in range(days)]
    level = [4.0 + draw.normal(0, 0.15) + (1.4 if n >= 35 else 0.0) for n in range(days)]
    found = [
        VersionDay(
            day,
            "3" if n >= 20 else "2",
            900 + 7 * n,
            800 if n < days - 2 else 0,
            level[n] if n < days - 2 else None,
            4.1 + draw.normal(0, 0.05) if n >= 20 else None,
        )
        for n, day in enumerate(names)
    ]
    evidence = [
        DriftFinding(
            n == 38,
            day,
            1.0,
            6.9,
            {name: (n - 33) * 1.6 if name == "distance" and n > 33 else -math.inf for name in FEATURES},
            (),
        )
        for n, day in enumerate(names)
        if n >= 20
    ]
    cells = tuple(CellShare(f"({n}, {n + 1}]", 0.1, 0.05 + 0.01 * n) for n in range(10))
    coverage = [Coverage(d.day, d.predictions, d.labelled, 90_000.0 + 100 * n, 130_000.0) for n, d in enumerate(found)]
    coverage = [one if one.labelled else replace(one, median_delay_s=None, p90_delay_s=None) for one in coverage]
    total = Coverage("all", 1000, 840, 90_000.0, 130_000.0)
    since = names[35] if days > 35 else None
    raised = Signal.raised("degradation", "3", names[-1], since, "(all): mean loss 4.1 → 5.4 <script>", {"alarms": 2})
    return ReportData(
        name="flights",
        version="3",
        created=datetime(2031, 4, 20, 9, tzinfo=UTC),
        since=names[0],
        until=names[-1],
        unit="absolute error of y, counted up to 20",
        signals=[
            raised,
            Signal("drift", False, names[-1], None, "as in training"),
            Signal("quality", False, "", None, "nothing judged yet"),
        ],
        alarms=[
            Alarm(names[-9], "3", "degradation", "worse"),
            Alarm(names[-10], "3", "drift"),
            Alarm(names[3], "2", "quality", "carrier: unseen"),
        ],
        days=found,
        labels=LabelStatus(total, [replace(total, name="3")], coverage, {"carrier": [replace(total, name="UA")]}),
        joined_until=datetime(2031, 4, 20, tzinfo=UTC),
        registered=4.0,
        limit=4.5,
        drift=evidence,
        moved=[Moved("distance", names[-5], 4000, 9.0, "≤ 1", 0.1, 0.3, 0.2, 0.4, cells)],
        distances=[Distance("distance", 0.12, 0.09, 1e-9, 41.5), Distance("carrier", 0.01)],
        distance_rows="6,300 rows",
        slices=[SliceLoss("(all)", 9000, 5.4, 4.0, 4.5), SliceLoss("carrier=UA", 3000, 4.2, 4.1, 4.9)],
        estimated_by="the expected loss given inputs.",
        notes=["no estimate of slices"],
    )


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith(("#", "data:"))
        ]

    def handle_data(self, text: str) -> None:
        self.text += text


def test_the_page_has_every_part_and_loads_nothing() -> None:
    page = Page(render_report(example()))
    assert page.tags.count("svg") == 5 and page.links == []
    for part in (
        "version 2",
        "version 3",
        "open incident",
        "degradation alarm",
        "drift alarm",
        "estimate without labels",
        "limit of 3",
        "Wasserstein",
        "they trigger nothing",
        "carrier=UA",
        "84.0%",
        "carrier: unseen",
        "degradation-3-2031-04-05",
        "no estimate of slices",
        "hour <b>",
    ):
        assert part in page.text, part
    assert "script" not in page.tags, "text from data is escaped"
    assert page.text.count("<script>") >= 1


def test_an_endpoint_that_nobody_has_asked_yet_makes_a_page() -> None:
    nothing = Coverage("all", 0, 0, None, None)
    empty = replace(
        example(),
        days=[],
        alarms=[],
        drift=[],
        moved=[],
        slices=[],
        distances=[],
        joined_until=None,
        labels=LabelStatus(nothing, [], [], {}),
        signals=[Signal("drift", False, "", None, "nothing judged yet")],
    )
    page = Page(render_report(empty))
    assert "svg" not in page.tags and "No labelled predictions" in page.text and "never" in page.text


@pytest.mark.parametrize("days", [1, 2, 400])
def test_few_and_many_days_are_drawn(days: int) -> None:
    assert render_report(replace(example(), days=example(max(days, 12)).days[:days])).count("<svg") == 5


def test_json_has_the_same_numbers_and_no_infinities() -> None:
    data = example()
    found = json.loads(json.dumps(data.to_dict(), allow_nan=False))
    assert found["days"][0]["loss"] == data.days[0].loss and found["limit"] == 4.5
    assert found["labels"]["total"]["share"] == 0.84 and found["joined_until"] == "2031-04-20T00:00:00+00:00"
    assert found["signals"][0]["incident"] == "degradation-3-2031-04-05"
    assert found["drift"][0]["evidence"]["carrier"] is None


def test_the_summary_names_the_alarm_and_the_newest_days(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(example())
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("degradation")]
    assert "ALARM" in lines[0] and "2031-04-05" in lines[0]
    assert "2031-04-19" in out and "2031-03-01  2" not in out and "84.0%" in out and "carrier=UA" in out


def test_since_is_a_day_or_a_number_of_days() -> None:
    now = datetime(2031, 3, 10, 15, tzinfo=UTC)
    assert parse_since("2031-03-01", now) == datetime(2031, 3, 1, tzinfo=UTC)
    assert parse_since("7d", now) == now - timedelta(days=7)
    for wrong in ("", "yesterday", "7", "2031-13-01", "-3d"):
        with pytest.raises(ConfigError, match="--since"):
            parse_since(wrong, now)
