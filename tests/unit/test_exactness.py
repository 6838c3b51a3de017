"""What keeps a run from being repeated is said beforehand; nothing is said of a run that repeats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from config_cases import smallest

from raymlops.training.exactness import exactness

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproducibility.md"


@pytest.mark.parametrize(
    ("sections", "cuda", "concurrent", "keys"),
    [
        ({"search": {"scheduler": "fifo"}}, False, 8, []),
        ({"train": {"workers": 2, "max_failures": 5}, "search": {"scheduler": "asha"}}, False, 1, []),
        ({"search": {"searcher": "optuna", "scheduler": "median"}}, False, 1, []),
        ({}, True, 1, ["train.device"]),
        ({"train": {"workers": 3}}, False, 1, ["train.workers"]),
        ({"train": {"workers": {"min": 1, "max": 2}}}, False, 1, ["train.workers"]),
        ({"search": {"scheduler": "asha"}}, False, 2, ["search.scheduler"]),
        ({"search": {"scheduler": "fifo", "searcher": "optuna"}}, False, 2, ["search.searcher"]),
        ({"search": {"time_budget_s": 60}}, False, 1, ["search.time_budget_s"]),
        (
            {"train": {"workers": 4}, "search": {"searcher": "optuna", "time_budget_s": 60}},
            True,
            2,
            ["train.device", "train.workers", "search.searcher", "search.scheduler", "search.time_budget_s"],
        ),
    ],
)
def test_every_reason_names_its_key(sections: dict[str, Any], cuda: bool, concurrent: int, keys: list[str]) -> None:
    reasons = exactness(smallest(**sections), cuda=cuda, concurrent=concurrent)
    assert [reason.partition(":")[0] for reason in reasons] == keys


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(PAGE.parents[1])
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    [said] = re.findall(r"# (search.scheduler: [^;]*);", code)
    assert said in capsys.readouterr().out
