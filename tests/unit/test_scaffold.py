"""`raymlops init` writes a project that is valid and tested as it stands, and touches nothing that is there already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raymlops.errors import ConfigError, RaymlopsError
from raymlops.scaffold import FILES, create_project


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scaffold") / "new" / "project"
    written = create_project(directory)
    assert written == [directory / name for name in FILES]
    assert all(path.read_text() for path in written)
    return directory


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    create_project(tmp_path)
    assert (tmp_path / "model.yaml").is_file()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for occupied in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match="not an empty directory; nothing was written"):
            create_project(occupied)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RaymlopsError, match=r"cannot write .*Not a directory"):
        create_project(tmp_path / "file" / "project")


def test_its_own_tests_pass_and_its_configuration_is_valid(project: Path) -> None:
    done = run(project, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_its_files_satisfy_the_linter(project: Path) -> None:
    for check in (["check"], ["format", "--check"]):
        done = run(project, "ruff", *check, "--no-cache", "--isolated", ".")
        assert done.returncode == 0, done.stdout


def test_its_workflow_runs_what_the_readme_says(project: Path) -> None:
    workflow = yaml.safe_load((project / ".github/workflows/train.yaml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["train"]["steps"]]
    assert "pytest" in steps
    assert any(step.startswith("raymlops run model.yaml") for step in steps)
