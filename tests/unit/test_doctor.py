"""`raymlops doctor` finds what will not work, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymlops import doctor
from raymlops.cli import main
from raymlops.doctor import Finding, examine


def by_name(storage: Path | str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(str(storage))}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_healthy_machine(tmp_path: Path) -> None:
    found = by_name(tmp_path / "storage")
    for name in ("python", "raymlops", "ray", "mlflow", "torch", "cpus", "memory", "gpus", "store", "disk"):
        assert found[name].status != "error", found[name]
    assert found["store"].detail == f"{tmp_path / 'storage'} does not exist yet and can be created"
    assert not (tmp_path / "storage").exists()


def test_an_existing_store_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    assert by_name(tmp_path)["store"].status == "ok"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = by_name(tmp_path / "file")["store"]
    assert found.status == "error"
    assert str(tmp_path / "file") in found.detail


def test_an_unknown_scheme() -> None:
    found = by_name("nosuch://bucket/x")["store"]
    assert found.status == "error"
    assert "nosuch" in found.detail


def test_versions_that_were_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TESTED", {"ray": "1.0", "no-such-package": "1.0"})
    found = by_name(tmp_path)
    assert found["ray"].status == "warning"
    assert "tested with 1.0" in found["ray"].detail
    assert found["no-such-package"] == Finding("no-such-package", "error", "not installed")


def test_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    monkeypatch.setattr(doctor, "PORTS", {taken_port: "test"})
    found = by_name(tmp_path)[f"port {taken_port}"]
    assert found.status == "warning"
    assert found.detail == "in use on loopback (test)"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["raymlops", "doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_exit_codes_and_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--storage", str(tmp_path)) == 0
    assert f"ok      store         {tmp_path} is readable and writable\n" in capfd.readouterr().out
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, "--storage", str(tmp_path / "file"), "--json") == 1
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["ok"] is False
    assert {"name", "status", "detail"} == report["findings"][0].keys()
