"""Puts this directory on the import path, so that unit and integration tests share the modules in it."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("raymlops", deadline=None)
hypothesis.settings.load_profile("raymlops")

# Models in tests are tiny: more threads would only wait for each other. Read by torch and BLAS when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray lets its workers give way to everything else (15), which here are the tests that wait for them.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[Any]]]:
    """What the serving part logged since the last call."""
    from raymlops.serving import logs

    monkeypatch.setattr(logs, "_windows", {})
    logger = logs.configure_logging(endpoint="flights", replica="r1")
    yield lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
