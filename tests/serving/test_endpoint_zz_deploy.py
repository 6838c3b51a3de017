"""Versions that read other columns than the champion, and the endpoint's own update while one of them is compared.

Last: it replaces the endpoint's replicas.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
import yaml
from conftest import Endpoint
from hand_client import eventually
from serving_models import NAME, register
from typer.testing import CliRunner

from raymlops.cli import app
from raymlops.errors import Refused
from raymlops.registry.backend import tracking
from raymlops.registry.versions import find_version
from raymlops.rollout.client import RolloutClient
from raymlops.rollout.ledger import Ledger
from raymlops.store import Store

FEATURES: dict[str, Any] = {
    "numeric": {"zeta": {}, "alpha": {"missing_indicator": True}},
    "categorical": {"carrier": {}},
    "tensor": {"pixels": {"shape": [2, 2]}},
    "dates": {"leaves": {"parts": ["hour", "year"]}},
}
FEWER = {**FEATURES, "numeric": {"zeta": {}}}
MORE = {**FEATURES, "categorical": {"carrier": {}, "band": {}}}
"""Against the champion's."""


@pytest.fixture(scope="module")
def rollouts(endpoint: Endpoint) -> RolloutClient:
    return RolloutClient(endpoint.name, by="test")


@pytest.fixture(scope="module")
def fewer(endpoint: Endpoint, rollouts: RolloutClient) -> Iterator[str]:
    """A version that reads one column fewer, compared until somebody promotes."""
    version = register(endpoint.root, bias=100.0, features=FEWER)
    with pytest.raises(Refused, match="does not know the column 'alpha', which requests have now"):
        rollouts.start([version])
    rollouts.start([version], mode="ab", force=True)
    eventually("the candidate answers", lambda: ask(endpoint)[0] == version)
    yield version
    rollouts.abort()
    eventually("it is taken back", lambda: rollouts.status()["rollout"] is None)


def ask(endpoint: Endpoint) -> tuple[str, float]:
    """Who answered one row, and what."""
    reply = endpoint.predict(endpoint.rows(1))
    assert reply.status_code == 200, reply.text
    return reply.headers["x-raymlops-version"], reply.json()["rows"][0]["prediction"]


def test_a_version_that_needs_one_column_more_is_not_started(endpoint: Endpoint, rollouts: RolloutClient) -> None:
    version = register(endpoint.root, features=MORE)
    with pytest.raises(Refused, match="needs the column 'band', which requests need not have now"):
        rollouts.start([version])
    assert rollouts.status()["rollout"] is None


def test_a_version_that_reads_one_column_fewer_answers_the_same_requests(endpoint: Endpoint, fewer: str) -> None:
    registry = tracking(None, Store(endpoint.storage))
    frame = pd.DataFrame(endpoint.rows(1)).assign(leaves=lambda f: pd.to_datetime(f["leaves"]))
    seen = Counter()
    for version, found in (ask(endpoint) for _ in range(60)):
        seen[version] += 1
        if seen[version] == 1:
            package = find_version(registry, f"{NAME}/{version}").load()
            assert math.isclose(found, package.predict(frame)["prediction"].iloc[0], rel_tol=1e-4)
    assert set(seen) == {endpoint.champion.version, fewer}


def emitted(endpoint: Endpoint, path: Path) -> Path:
    written = path / "model.yaml"
    written.write_text(yaml.safe_dump(endpoint.config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    result = CliRunner().invoke(app, ["serve", str(written), "--emit", str(path / "serve.yaml")])
    assert result.exit_code == 0, result.output
    return path / "serve.yaml"


@contextmanager
def load(endpoint: Endpoint, threads: int = 3) -> Iterator[Counter[tuple[int, str]]]:
    """Steady requests; counts them by status and version."""
    answers: Counter[tuple[int, str]] = Counter()
    lock, end = threading.Lock(), threading.Event()
    url, body = f"{endpoint.url}/v2/models/{endpoint.name}/rows", {"rows": endpoint.rows(1)}

    def asking() -> None:
        session = requests.Session()
        while not end.wait(0.01):
            try:
                reply = session.post(url, json=body, timeout=20)
                found = (reply.status_code, reply.headers.get("x-raymlops-version", ""))
            except requests.RequestException as error:
                found = (0, type(error).__name__)
            with lock:
                answers[found] += 1

    workers = [threading.Thread(target=asking, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield answers
    finally:
        end.set()
        for worker in workers:
            worker.join(20)


def test_an_update_pauses_the_rollout_and_fails_no_request(
    endpoint: Endpoint, rollouts: RolloutClient, fewer: str, tmp_path: Path
) -> None:
    from ray import serve
    from ray.serve._private.api import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    file = emitted(endpoint, tmp_path)
    text = file.read_text(encoding="utf-8")
    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in text
    content = yaml.safe_load(text)
    assert "version" not in content["applications"][0]["args"]
    content["applications"][0]["args"]["serving"]["limits"]["rows"] = 400  # a change, seen from outside
    ledger = Ledger(Store(endpoint.storage), endpoint.name)
    before = ledger.numbers()[-1]

    def of_the_update() -> list[str]:
        return [entry.kind for entry in ledger.entries(before) if entry.payload.get("because") == "update"]

    with load(endpoint) as answers:
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(content))  # what `serve deploy` sends
        eventually("the new limit holds", lambda: endpoint.predict(endpoint.rows(1) * 450).status_code == 413)
        eventually("it runs", lambda: serve.status().applications[endpoint.name].status == "RUNNING")
        eventually("the rollout goes on", lambda: of_the_update() == ["paused", "resumed"])
        compared = rollouts.status()["rollout"]["arms"][1]["requests"]
        eventually("it compares", lambda: rollouts.status()["rollout"]["arms"][1]["requests"] > compared + 20)
    assert {status for status, _ in answers} == {200} and {version for _, version in answers} == {
        endpoint.champion.version,
        fewer,
    }
    assert rollouts.status()["rollout"]["phase"] == "running"
