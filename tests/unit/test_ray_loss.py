"""Noticing that a process which the work needs has ended."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from raymlops.ray_loss import RayLost, guarded


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    yield child
    child.kill()
    child.wait()


def test_a_wait_is_interrupted_and_the_loss_is_named(server: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(RayLost, match=r"^the local Ray was lost: its python\S* has ended, .* goes on with what is left"),
        guarded([psutil.Process(server.pid)]) as guard,
    ):
        assert not guard.lost()
        server.kill()
        threading.Event().wait(60)
    assert guard.lost()


def test_an_error_that_came_of_the_loss_is_told_as_the_loss(server: subprocess.Popen[str]) -> None:
    with pytest.raises(RayLost) as caught, guarded([psutil.Process(server.pid)]):
        server.kill()
        server.wait()
        raise ValueError("no actor")
    assert isinstance(caught.value.__cause__, ValueError)


def test_another_error_stays_what_it_is(server: subprocess.Popen[str]) -> None:
    with pytest.raises(ValueError, match="another"), guarded([psutil.Process(server.pid)]):
        raise ValueError("another")


def test_elsewhere_than_in_the_main_thread_nothing_is_interrupted(server: subprocess.Popen[str]) -> None:
    found: list[bool] = []

    def work() -> None:
        with guarded([psutil.Process(server.pid)]) as guard:
            server.kill()
            server.wait()
            found.append(guard.lost())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [True]


def test_what_ends_after_the_work_is_no_loss(server: subprocess.Popen[str]) -> None:
    with pytest.raises(ValueError, match="another"), guarded([psutil.Process(server.pid)]) as guard:
        guard.release()
        server.kill()
        server.wait()
        raise ValueError("another")
    assert not guard.lost()


STUCK = """
import subprocess, sys, time
import psutil
from raymlops import ray_loss
from raymlops.terminal import Terminal

ray_loss.GOODBYE_SECONDS = 0.1
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
with Terminal(sys.stderr).quiet(), ray_loss.guarded([psutil.Process(child.pid)]):
    child.kill()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_main_thread_that_no_signal_ends_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK, "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"].startswith("the local Ray was lost")
    assert done.stderr.startswith("error: the local Ray was lost")
