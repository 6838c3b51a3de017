"""Endpoints that `raymlops serve` runs on this machine: a record of each, so that other commands find it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from raymlops.errors import RaymlopsError

SOCKET_PATH_BYTES = 107
"""A Unix socket's path is no longer on Linux: unix(7)."""
_LONGEST = f"/e12345678/{56 * 'n'}/admin.1234567.tmp"
"""Below the runtime directory: HAProxy's, where Serve puts it for a node, by its name until HAProxy has opened it."""


@dataclass(frozen=True)
class LocalEndpoint:
    """One running `raymlops serve`. The Ray that it started lives and ends with the process."""

    name: str
    url: str
    pid: int
    started: float
    """When the process began, seconds since 1970: a pid alone may be somebody else's by now."""
    address: str
    """Of its Ray."""
    directory: str
    """For its sockets, log and token; removed at the end."""
    token: str | None = None
    """File with the token that its Ray asks for."""

    @property
    def alive(self) -> bool:
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1.0
        except psutil.Error:
            return False

    def environment(self) -> dict[str, str]:
        """What a process must have in its environment, before it imports Ray, to join this Ray."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token} if self.token is not None else {}
        return {"RAY_ADDRESS": self.address, **token}

    def save(self) -> None:
        target = _record(self.name)
        staged = target.with_suffix(f".{self.pid}")
        staged.write_text(json.dumps(asdict(self)), encoding="utf-8")
        staged.replace(target)

    def remove(self) -> None:
        """Forget it, unless another process has taken its name meanwhile."""
        found = find(self.name, dead=True)
        if found is not None and found.pid == self.pid:
            _record(self.name).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def runtime_directory() -> Path:
    """This user's directory for records and sockets: in the temporary directory, or, where the sockets' paths would
    become too long there, in /tmp. Raises RaymlopsError when it is somebody else's."""
    path = Path(tempfile.gettempdir()) / f"rml-{os.getuid()}"
    if len(os.fsencode(path)) + len(_LONGEST) > SOCKET_PATH_BYTES:
        path = Path("/tmp") / path.name
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or path.is_symlink():
        raise RaymlopsError(f"{path}: expected a directory that only this user may read and write")
    return path


def find(name: str, dead: bool = False) -> LocalEndpoint | None:
    """The running endpoint with this name on this machine; `dead` also gives one whose process is gone."""
    try:
        found = LocalEndpoint(**json.loads(_record(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if dead or found.alive else None


def clear(name: str) -> None:
    """Remove what an endpoint with this name left behind whose process was killed: its HAProxy would keep the port."""
    dead = find(name, dead=True)
    if dead is None or dead.alive:
        return
    for process in psutil.process_iter():
        try:
            if any(part.startswith(f"{dead.directory}/") for part in process.cmdline()) and process.ppid() == 1:
                process.terminate()
        except psutil.Error:
            continue
    dead.remove()


def running() -> list[LocalEndpoint]:
    """All of them, by name."""
    names = sorted(path.stem for path in runtime_directory().glob("*.json"))
    return [endpoint for name in names if (endpoint := find(name)) is not None]


def _record(name: str) -> Path:
    return runtime_directory() / f"{name}.json"
