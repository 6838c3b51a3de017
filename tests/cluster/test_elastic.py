"""A training with `workers: {min, max}` shrinks when a node is lost and grows when there is one again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STEPS, HELD = 3 * 29, 20
"""Of the whole training, and of a group of workers before it waits."""


def test_a_training_loses_a_node_and_gets_another(tmp_path: Path) -> None:
    """About 50 s: a cluster and three groups of workers have to start, and Ray waits 4 for the lost node."""
    short = Path(f"/tmp/re{os.getpid()}")  # Ray's socket paths must stay short
    short.mkdir()
    settings = {
        "RAY_TMPDIR": str(short),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "localhost only", where a driver joins too
        "RAY_worker_niceness": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "4",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(HERE / "elastic_world.py"), str(tmp_path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=kept | settings)
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["groups"] == [2, 1, 2]
    assert STEPS <= seen["steps"] < STEPS + HELD, "each group went on from a stored state"
    assert seen["epoch"] > 1, "and so did the model"
