"""Server processes: started in the foreground, ready when they answer, ended with everything they started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

READY_SECONDS = 120.0
STOP_SECONDS = 20.0


class Server:
    """A running command whose output goes to a file. Use as a context manager."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command), env={**inherited, **environment}, cwd=directory,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def memory(self) -> float:
        """MiB that all its processes hold for themselves (unique set size; shared pages count nowhere)."""
        total = 0
        for process in self._tree():
            with suppress(psutil.Error):
                total += process.memory_full_info().uss
        return total / 2**20

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL for whatever it left behind."""
        tree = self._tree()
        if self.alive:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        deadline = time.monotonic() + 3.0
        while [p for p in tree if p.is_running() and p.pid != self._process.pid] and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in tree:
            with suppress(psutil.Error):
                if process.is_running():  # by pid and creation time: never somebody else's
                    process.kill()
        self._process.wait()

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        return []
