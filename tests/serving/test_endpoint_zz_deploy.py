"""The emitted file is what Serve deploys, over a running endpoint too. Last: it replaces the endpoint's replicas."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import requests
import yaml
from conftest import Endpoint
from hand_client import eventually
from typer.testing import CliRunner

from raymlops.cli import app


def emitted(endpoint: Endpoint, path: Path) -> Path:
    written = path / "model.yaml"
    written.write_text(yaml.safe_dump(endpoint.config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    result = CliRunner().invoke(app, ["serve", str(written), "--emit", str(path / "serve.yaml")])
    assert result.exit_code == 0, result.output
    return path / "serve.yaml"


def test_the_emitted_file_is_deployed_without_a_failed_request(endpoint: Endpoint, tmp_path: Path) -> None:
    from ray import serve
    from ray.serve._private.api import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    file = emitted(endpoint, tmp_path)
    text = file.read_text(encoding="utf-8")
    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in text
    content = yaml.safe_load(text)
    assert "version" not in content["applications"][0]["args"]
    content["applications"][0]["args"]["serving"]["limits"]["rows"] = 400  # a change, seen from outside
    statuses: Counter[int] = Counter()
    end = threading.Event()

    def ask() -> None:
        session, url = requests.Session(), f"{endpoint.url}/v2/models/{endpoint.name}/rows"
        while not end.wait(0.01):
            statuses[session.post(url, json={"rows": endpoint.rows(1)}, timeout=20).status_code] += 1

    worker = threading.Thread(target=ask, daemon=True)
    worker.start()
    try:
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(content))  # what `serve deploy` sends
        eventually("the new limit holds", lambda: endpoint.predict(endpoint.rows(1) * 450).status_code == 413)
        eventually("it runs", lambda: serve.status().applications[endpoint.name].status == "RUNNING")
    finally:
        end.set()
        worker.join(20)
    assert set(statuses) == {200} and statuses[200] > 20
