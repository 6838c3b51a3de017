from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raymlops.errors import ConfigError, RaymlopsError
from raymlops.registry.backend import tracking
from raymlops.store import Store


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_configuration_before_environment_before_the_embedded_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    embedded = tracking(None, store)
    assert embedded.uri == f"sqlite:///{tmp_path}/mlflow.db" and embedded.artifacts == f"{tmp_path}/mlartifacts"
    assert not embedded.exists
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert tracking(None, store).uri == "http://from-environment:5000"
    chosen = tracking("postgresql+psycopg2://user:secret@db/mlflow", store)
    assert chosen.direct and chosen.artifacts == f"{tmp_path}/mlartifacts"
    assert "secret" not in chosen.shown and "db/mlflow" in chosen.shown
    assert tracking(None, store).artifacts is None


def test_a_remote_store_needs_a_tracking_uri() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri.*s3://bucket/x"):
        tracking(None, Store("s3://bucket/x"))
    assert tracking("https://mlflow.example.org", Store("s3://bucket/x")).artifacts is None


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "./x"])
def test_directories_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        tracking(uri, Store(str(tmp_path)))


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RaymlopsError, match=f"nobody answers at http://127.0.0.1:{port}"):
        _ = tracking(f"http://user:secret@127.0.0.1:{port}", Store(str(tmp_path))).client


KILLED_WHILE_MAKING = """
import os, signal, sys
from alembic.ddl.impl import DefaultImpl
from raymlops.registry.backend import tracking
from raymlops.store import Store

DefaultImpl.drop_table = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
tracking(None, Store(sys.argv[1])).client
"""


def test_a_database_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_MAKING, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    embedded = tracking(None, Store(str(tmp_path)))
    assert not embedded.exists
    assert [experiment.name for experiment in embedded.client.search_experiments()] == ["Default"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
