from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from raymlops.registry import lineage


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-b", "trunk")
    (tmp_path / "model.py").write_text("width = 3\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_repository(repository: Path) -> None:
    found = lineage.git_state(repository)
    assert found is not None
    assert found.branch == "trunk" and len(found.commit or "") == 40
    assert (found.dirty, found.diff) == (False, "")


def test_the_diff_shows_tracked_changes_and_never_untracked_contents(repository: Path) -> None:
    (repository / "model.py").write_text("width = 4\n")
    (repository / ".env").write_text("PASSWORD=hunter2\n")
    (repository / "below").mkdir()
    found = lineage.git_state(repository / "below")
    assert found is not None
    assert (found.changed, found.untracked, found.dirty) == (1, 1, True)
    assert "+width = 4" in found.diff and "hunter2" not in found.diff
    assert found.to_dict()["diff"] == len(found.diff)


def test_a_long_diff_is_cut_and_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_DIFF_BYTES", 500)
    (repository / "model.py").write_text("line\n" * 1000)
    found = lineage.git_state(repository)
    assert found is not None
    assert len(found.diff) < 600 and "more bytes of changes" in found.diff.splitlines()[-1]


def test_before_the_first_commit_and_outside_of_any_repository(tmp_path: Path) -> None:
    assert lineage.git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "a").write_text("")
    found = lineage.git_state(tmp_path)
    assert found is not None and found.commit is None and found.dirty


def test_packages_and_hardware() -> None:
    packages = lineage.installed_packages()
    assert packages == sorted(packages, key=lambda line: line.partition("==")[0])
    assert any(line.startswith("torch==") for line in packages)
    machine = lineage.hardware()
    assert machine["cpus"] >= 1 and machine["memory"] > 2**28 and isinstance(machine["gpus"], list)


def test_packages_are_the_same_whether_or_not_ray_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lineage.installed_packages()
    for folder in ("ray/thirdparty_files", "plain"):
        brought = tmp_path / folder / "brought_along-1.0.dist-info"
        brought.mkdir(parents=True)
        (brought / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "ray/thirdparty_files"))
    assert lineage.installed_packages() == before
    monkeypatch.syspath_prepend(str(tmp_path / "plain"))
    assert set(lineage.installed_packages()) - set(before) == {"brought-along==1.0"}
