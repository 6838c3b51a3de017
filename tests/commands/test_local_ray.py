"""A local Ray that is killed under a running job: the command says so at once, and the next one does what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from raymlops.registry.catalog import list_models, list_runs
from raymlops.retraining.records import Records
from raymlops.scaffold import create_project
from raymlops.store import Store

DEADLINE = 120.0
"""Seconds for a run of the small job with a Ray of its own."""
NOTICED = 40.0
"""Without being told, Ray ends the process a minute after it was lost, and says nothing."""


class Command:
    """`raymlops run` in a process of its own, with a Ray of its own."""

    def __init__(self, project: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raymlops", "run", "model.yaml", "--json"],
            cwd=project,
            env={k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def lose_ray(self, when: Callable[[], Any]) -> None:
        """Kill all that it has started, as soon as `when` holds."""
        deadline = time.monotonic() + DEADLINE
        while not when():
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < deadline, "".join(self.said)
            time.sleep(0.01)
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.send_signal(signal.SIGKILL)

    def end(self, seconds: float) -> tuple[int, dict[str, Any]]:
        """Exit code and result."""
        assert self.process.stdout is not None
        code = self.process.wait(seconds)
        self.listener.join()
        return code, json.loads(self.process.stdout.read())


def test_the_loss_is_told_and_the_next_run_does_what_is_left(tmp_path: Path) -> None:
    """Most of a minute: two processes start a Ray of their own, and Tune, waiting for a server that is gone, is given
    the time for an orderly end before it is denied one."""
    create_project(tmp_path / "my-model")
    storage = tmp_path / "my-model" / ".raymlops"

    def ended() -> dict[Path, int]:
        """Records of trials that have ended, with the time of their last change."""
        found = storage.glob("runs/my-model/*/trial-*/record.json")
        status = {path: json.loads(path.read_text())["record"]["status"] for path in found}
        return {path: path.stat().st_mtime_ns for path in status if status[path] not in ("pending", "running")}

    command = Command(tmp_path / "my-model")
    command.lose_ray(ended)
    code, result = command.end(NOTICED)
    assert (code, result["exit_code"]) == (1, 1), "".join(command.said)
    assert "the local Ray was lost" in result["error"] and "goes on with what is left" in result["error"]
    assert f"error: {result['error']}\n" in command.said
    [record] = Records(Store(str(storage)), "my-model").jobs()
    assert record.status in ("stopped", "running"), "it is to be gone on with"
    kept = {path: at for path, at in ended().items() if json.loads(path.read_text())["record"]["died"] is False}

    command = Command(tmp_path / "my-model")
    code, result = command.end(DEADLINE)
    assert code == 0, "".join(command.said)
    assert result["reused"][0] == "snapshot"
    assert kept and all(ended()[path] == at for path, at in kept.items()), "trained again"
    [run] = list_runs(str(storage), None)
    assert (run.run_id, run.status, run.version) == (record.run_id, "FINISHED", "1")
    assert [model.version for model in list_models(str(storage), None)] == ["1"]
