"""Every example of docs/rollout-evidence.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from raymlops.rollout_cli import app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "rollout-evidence.md").read_text()


def test_the_examples_run_one_after_the_other():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/rollout-evidence.md", "exec"), names)


def test_the_commands_run():
    commands = re.findall(r"^\$ raymlops rollout (.*)$", TEXT, re.MULTILINE)
    assert commands
    for command in commands:
        assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0


def test_the_plan_that_the_text_calls_undecidable_is_refused():
    asked = ["plan", "--rps", "3", "--baseline-errors", "0.01", "--weight", "0.1", "--effect", "3x", "--keys", "5000"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 3 and "larger margin" in done.stdout
