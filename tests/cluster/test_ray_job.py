"""The job submitted to a cluster that is already running: a head node that the test starts on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
DEADLINE_S = 90
TOKEN = secrets.token_hex(32)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the jobs API of a head node with two CPUs; its processes end with the test."""
    # Ray's socket paths must stay short, so its files cannot live below pytest's folder.
    folder = Path(f"/tmp/rj{os.getpid()}")
    port, dashboard, client, agent, metrics = free_ports(5)
    command = [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--num-cpus=2", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}", "--disable-usage-stats"]
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, process)
        yield address
    finally:
        end(process.pid)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def end(pid: int) -> None:
    """The process and everything that it started."""
    family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        member.kill()


def clean_environment() -> dict[str, str]:
    """Nothing of the surrounding Ray, and a token of this test's own: clusters are not left open, not even here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, "the head node ended while it was starting"
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "the jobs API did not come up"
            time.sleep(0.2)  # between two looks at the condition


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as it would be submitted: the package, the job scripts, and a small configuration."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("raymlops", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "configs").mkdir()
    for name in ("digits.yaml", "digits_model.py"):
        shutil.copy(ROOT / "configs" / name, folder / "configs" / name)
    return folder


def submit(
    head: str, project: Path, storage: Path, *overrides: str, job: Sequence[str] = ("train.py",)
) -> tuple[int, str]:
    script, *arguments = job
    command = [str(RAY), "job", "submit", f"--address={head}", f"--working-dir={project}", "--", sys.executable]
    command += [f"jobs/{script}", *arguments, "--config", "configs/digits.yaml", "--set", f"storage={storage}"]
    for override in ("search.trials=2", "train.epochs=3", *overrides):
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=clean_environment())
    return done.returncode, done.stdout + done.stderr


def result(output: str) -> dict[str, object]:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in output.splitlines()]
    return dict(json.loads(next(line for line in reversed(lines) if line.startswith("{"))))


def test_a_submitted_job_registers_a_champion(head: str, project: Path, tmp_path: Path) -> None:
    code, output = submit(head, project, tmp_path / "s", "gate.thresholds={}")
    assert code == 0, output
    assert "cluster at " in output
    assert "local Ray" not in output
    found = result(output)
    assert found["verdict"] == "blessed"
    assert found["alias"] == "champion"
    assert (tmp_path / "s" / "mlflow.db").exists()

    code, output = submit(head, project, tmp_path / "s", job=("loop.py", "--once"))
    assert code == 0, output
    decision = result(output)["decision"]
    assert isinstance(decision, dict) and decision["code"] == "no_cause", "nobody has asked this champion yet"


def test_exit_code_and_log_of_a_refused_job_tell_the_truth(head: str, project: Path, tmp_path: Path) -> None:
    code, output = submit(head, project, tmp_path / "s", "gate.thresholds={accuracy: {min: 1.0}}", "train.epochs=1")
    assert code != 0, output
    assert "exit code 3" in output
    assert result(output)["verdict"] == "refused"


def test_a_wrong_configuration_fails_with_its_reason(head: str, project: Path, tmp_path: Path) -> None:
    code, output = submit(head, project, tmp_path / "s", "train.epoch=3")
    assert code != 0
    assert "train.epoch: unknown key; did you mean 'epochs'?" in output
    assert "exit code 2" in output


def test_outside_of_a_cluster_the_script_says_how_to_run_it() -> None:
    command = [sys.executable, "jobs/train.py", "--config", "configs/flights.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 1
    assert "ray job submit" in done.stderr
    assert "Traceback" not in done.stderr
