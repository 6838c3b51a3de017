"""The example of docs/retraining.md runs and prints what the page says, and its tables name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from raymlops.retraining.journal import Outcome

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "retraining.md").read_text()


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    [said] = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "docs/retraining.md", "exec"), {})
    assert capsys.readouterr().out == said


def test_every_outcome_is_described() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.M)) == sorted(get_args(Outcome))
