from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.registry import plots
from raymlops.registry.report import ReportData, number, render_report

HOSTILE = "<script>alert('$x$')</script> & $\\frac{"


def trials(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        rate = float(10 ** rng.uniform(-4, -1))
        metric = 5 + abs(math.log10(rate) + 2.5)
        curves = [{"epoch": e, "metric": metric + 1 / (e + 1), "train_loss": 1.0} for e in range(4)]
        params = {"train.learning_rate": rate, "model.activation": str(rng.choice(["relu", "gelu"]))}
        found.append(
            {
                "name": f"trial-{i:03d}",
                "status": "completed",
                "reason": None,
                "params": params,
                "metric": metric,
                "curves": curves,
                "seconds": 1.0,
            }
        )
    failed = {**found[0], "name": "trial-999", "status": "failed", "reason": HOSTILE, "metric": None, "curves": []}
    return [*sorted(found, key=lambda t: t["metric"]), failed]


def data(task: str = "regression", n: int = 500, **changes: Any) -> ReportData:
    rng = np.random.default_rng(0)
    classes: tuple[str, ...] = ()
    if task == "regression":
        y = rng.gamma(3.0, 50.0, n)
        scores = y + rng.normal(0, 5, n)
    elif task == "binary":
        scores = rng.random(n)
        y = (rng.random(n) < scores).astype(int)
        classes = ("no", "yes")
    else:
        classes = ("a", "b", HOSTILE)
        scores = rng.dirichlet([1.0, 1.0, 1.0], n)
        y = rng.integers(0, 3, n)
    base = ReportData(
        name="trips",
        task=task,
        target="minutes",
        run_id="0123456789abcdef",
        created=datetime(2030, 1, 2, tzinfo=UTC),
        blessed=True,
        reasons=["mae 4.2 is below 5"],
        metrics={"mae": 4.2, "rmse": None},
        metric="mae",
        greater_is_better=False,
        y=y,
        scores=scores,
        classes=classes,
        trials=trials(),
        snapshot="ab" * 32,
        rows={"train": 1000, "validation": 100, "holdout": n},
        lineage={"git": None, "hardware": None, "packages": ["torch==1"], "seed": 7, "raymlops": "0.1"},
    )
    return replace(base, **changes)


class Page(HTMLParser):
    """What a browser would see: tags, and the text outside of drawings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize(
    ("task", "titles"),
    [
        ("regression", ["Predicted against actual", "Errors"]),
        ("binary", ["ROC curve", "Calibration"]),
        ("multiclass", ["Confusion", "Calibration"]),
    ],
)
def test_each_task_gets_its_plots_and_the_page_loads_nothing(task: str, titles: list[str]) -> None:
    html = render_report(data(task))
    page = Page(html)
    headings = " ".join(page.texts)
    for title in [*titles, "Learning curves", "Parameters and what they gave"]:
        assert title in headings
    assert not [t for t, _ in page.tags if t in ("script", "img", "link", "iframe")]
    links = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "xlink:href") and v]
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    for drawing in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        ElementTree.fromstring(drawing)
    assert html.count("<svg") == 4 and "currentColor" in html and plots.INK not in html


def test_text_from_users_is_escaped_everywhere() -> None:
    hostile = data(
        "multiclass",
        name=HOSTILE,
        target=HOSTILE,
        reasons=[HOSTILE],
        blessed=False,
        checks=[{"name": HOSTILE, "passed": False, "detail": HOSTILE}],
        slices=[{"column": HOSTILE, "value": HOSTILE, "rows": 3, "metrics": {"mae": math.nan}}],
        behaviours=[{"name": HOSTILE, "passed": True, "detail": HOSTILE}],
        source={"kind": HOSTILE},
        contract=HOSTILE,
        profile={HOSTILE: {"kind": HOSTILE, "min": HOSTILE}},
    )
    html = render_report(hostile)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8
    render_report(replace(hostile, task="regression", y=np.ones(9), scores=np.ones(9)))


def test_verdict_reasons_and_numbers_are_on_the_page() -> None:
    comparison = {
        "metric": "mae",
        "candidate": 4.2,
        "champion": 4.5,
        "champion_version": "3",
        "difference": -0.3,
        "interval": (-0.4, -0.2),
        "confidence": 0.95,
        "resamples": 1000,
    }
    text = " ".join(
        " ".join(Page(render_report(data(blessed=False, comparison=comparison, baseline={"mae": 9.5}))).texts).split()
    )
    for expected in ("refused", "mae 4.2 is below 5", "champion (version 3)", "−0.3", "−0.4 … −0.2", "95% interval"):
        assert expected in text
    assert "trivial predictor 9.5" in text and "train 1,000" in text
    broken = {**comparison, "error": "the champion cannot read the rows", "interval": (None, None), "difference": None}
    assert "Not comparable" in render_report(data(comparison=broken, baseline={"mae": None}))


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_unusable_scores_and_gaps_in_curves_do_not_break_the_page(task: str) -> None:
    one = data(task)
    scores = one.scores.copy()
    scores[:3] = math.nan
    gaps = [{**t, "curves": [{"epoch": 0, "metric": None}, {"epoch": 1}, *t["curves"]]} for t in one.trials]
    assert render_report(replace(one, scores=scores, trials=gaps)).count("<svg") == 4
    assert render_report(replace(one, scores=np.full_like(scores, math.nan))).count("<svg") == 2


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_hardly_any_rows_and_no_finished_trials_still_make_a_page(task: str, n: int) -> None:
    one = data(task)
    few = replace(one, y=one.y[:n], scores=one.scores[:n], trials=[t for t in one.trials if t["metric"] is None])
    assert "0123456789abcdef" in render_report(few)
    assert render_report(replace(few, trials=[]))


def test_the_same_values_give_the_same_page() -> None:
    assert render_report(data("binary")) == render_report(data("binary"))


def test_importance_finds_the_parameter_that_matters() -> None:
    rng = np.random.default_rng(1)
    rates = rng.uniform(0, 1, 30)
    found = plots.importance(
        [
            {"params": {"rate": float(r), "kind": str(rng.choice(["a", "b"])), "fixed": 1}, "metric": float(r**3)}
            for r in rates
        ]
    )
    assert [name for name, _ in found] == ["rate", "kind"]
    assert found[0][1] == pytest.approx(1.0) and found[1][1] < 0.3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60))
def test_area_under_the_drawn_roc_is_the_probability_of_the_right_order(pairs: list[tuple[bool, int]]) -> None:
    y, scores = np.array([p[0] for p in pairs], dtype=int), np.array([p[1] for p in pairs], dtype=float)
    positive, negative = scores[y == 1], scores[y == 0]
    if not len(positive) or not len(negative):
        return
    difference = positive[:, None] - negative[None, :]
    expected = ((difference > 0) + 0.5 * (difference == 0)).mean()
    false, true = plots.roc_points(y, scores)
    assert np.trapezoid(true, false) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.123456, "0.1235"),
        (-0.5, "−0.5"),
        (123456.7, "123,457"),
        (1234567, "1,234,567"),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_numbers_are_written_for_readers(value: Any, shown: str) -> None:
    assert number(value) == shown
