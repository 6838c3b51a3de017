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
import yaml
from conftest import frame
from job_world import job

from raymlops.config.tree import Config
from raymlops.registry.catalog import list_models, list_runs
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.records import Records
from raymlops.retraining.watch import Silent
from raymlops.store import Store

DEADLINE = 90.0
"""Seconds for a run of the small job with a Ray of its own; within a minute of losing it Ray would end the process."""
NOTICED = 30.0


class Command:
    """`raymlops run` in a process of its own, with a Ray of its own."""

    def __init__(self, config: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raymlops", "run", str(config), "--json"],
            env=kept,
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

    def lose_ray(self, when: Callable[[], bool]) -> None:
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
        return code, json.loads(self.process.stdout.read())


def ended_trials(config: Config) -> dict[Path, int]:
    """Records of trials that have ended, with the time of their last change."""
    found = Path(config.storage).glob("runs/small/*/trial-*/record.json")
    ended = [path for path in found if json.loads(path.read_text())["record"]["status"] not in ("pending", "running")]
    return {path: path.stat().st_mtime_ns for path in ended}


def test_the_loss_is_told_and_the_next_run_does_what_is_left(ray_session: None, tmp_path: Path) -> None:
    """Most of a minute: two processes start a Ray of their own, and Tune, waiting for a server that is gone, has to be
    given the time for an orderly end before it is denied one."""
    frame().to_parquet(tmp_path / "rows.parquet")
    config = job(tmp_path, train__epochs=12)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False))

    command = Command(path)
    command.lose_ray(lambda: bool(ended_trials(config)))
    code, result = command.end(NOTICED)
    assert (code, result["exit_code"]) == (1, 1), "".join(command.said)
    assert "the local Ray was lost" in result["error"] and "goes on with what is left" in result["error"]
    assert f"error: {result['error']}\n" in command.said
    [record] = Records(Store(config.storage), config.name).jobs()
    assert record.status in ("stopped", "running"), "it is to be gone on with"
    kept = ended_trials(config)

    command = Command(path)
    code, result = command.end(DEADLINE)
    assert code == 0, "".join(command.said)
    assert result["reused"][0] == "snapshot"
    assert kept and all(ended_trials(config)[path] == at for path, at in kept.items()), "trained again"
    [run] = list_runs(config.storage, None)
    assert (run.run_id, run.status, run.version) == (record.run_id, "FINISHED", "1")
    assert [model.version for model in list_models(config.storage, None)] == ["1"]
    undisturbed = run_job(config.model_copy(update={"storage": str(tmp_path / "other")}), tmp_path, Silent())
    assert undisturbed.weights_sha256 == result["weights_sha256"]
