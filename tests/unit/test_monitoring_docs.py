"""Every example of docs/monitoring.md runs and prints what the page says, and its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raymlops import monitoring
from raymlops.cli import app
from raymlops.errors import ConfigError
from raymlops.monitoring import pictures

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text()


def test_the_examples_run_and_print_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/monitoring.md", "exec"), names)
    drift, loss = capsys.readouterr().out.splitlines()
    assert f"    {drift}\n" in TEXT and f"# {loss}\n" in TEXT


def test_the_command_on_the_page_takes_its_options() -> None:
    [command] = re.findall(r"```bash\nraymlops (monitor .*)\n```", TEXT)
    found = CliRunner().invoke(app, [*command.split(), "--json"])
    assert isinstance(found.exception, ConfigError) and "model.yaml" in str(found.exception)


def test_the_names_on_the_page_exist() -> None:
    named = set(re.findall(r"`([A-Z][A-Za-z]+|[a-z]+_[a-z]+)`", TEXT))
    assert len(named) >= 6
    assert all(hasattr(monitoring, name) or hasattr(pictures, name) for name in named)
