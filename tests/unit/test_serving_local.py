"""The directory for records and sockets: short enough for the longest of their paths, wherever the temporary one is."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymlops.errors import RaymlopsError
from raymlops.serving import local
from raymlops.serving.environment import environment
from raymlops.serving.local import runtime_directory

NODE = 56 * "n"
PID = 4_194_304
"""The largest on 64-bit Linux: proc(5)."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Shorter than pytest's."""
    path = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("letters", [1, 4, 5, 17, 40, 120])
def test_haproxy_can_open_its_socket_wherever_the_temporary_directory_is(
    letters: int, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = scratch / (letters * "x")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    directory = Path(tempfile.mkdtemp(prefix="e", dir=runtime_directory()))
    try:
        path = Path(environment("haproxy", directory)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
        (path.parent / NODE).mkdir()  # as Serve does, and HAProxy opens it by another name before it has its own
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path.parent / NODE / f"{path.name}.{PID}.tmp"))
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def short(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory that is short enough, whatever the user's number adds."""
    monkeypatch.setattr(local, "SOCKET_PATH_BYTES", 4096)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return scratch


def test_it_is_in_the_temporary_directory_where_that_is_short(short: Path) -> None:
    assert runtime_directory().parent == short


@pytest.mark.usefixtures("short")
def test_one_that_others_may_read_is_refused() -> None:
    runtime_directory().chmod(0o755)
    with pytest.raises(RaymlopsError, match="expected a directory that only this user may read and write"):
        runtime_directory()
