"""The file that `serve deploy` and KubeRay's RayService take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_cases import smallest

from raymlops.errors import RaymlopsError
from raymlops.serving.args import EndpointArgs
from raymlops.serving.declarative import write_serve_config


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def written(path: Path, **serving: Any) -> str:
    write_serve_config(smallest(serving=serving), path)
    return path.read_text(encoding="utf-8")


def test_serve_takes_it_and_the_application_is_the_configured_one(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = written(tmp_path / "serve.yaml", host="0.0.0.0", port=8123, nan="missing", limits={"rows": 77})
    content = yaml.safe_load(text)
    deployed = ServeDeploySchema.model_validate(content)
    assert (deployed.http_options.host, deployed.http_options.port) == ("0.0.0.0", 8123)
    (application,) = deployed.applications
    module, _, builder = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[builder]), builder))
    args = EndpointArgs.model_validate(application.args)
    assert (args.name, args.serving.limits.rows, args.serving.nan) == (smallest().name, 77, "missing")
    assert "version" not in content["applications"][0]["args"]
    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=raymlops.serving.middleware:middlewares" in text


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("endpoint.example", False)],
)
def test_it_says_when_other_hosts_cannot_reach_it(tmp_path: Path, host: str, warned: bool) -> None:
    assert ("--set serving.host=0.0.0.0" in written(tmp_path / "serve.yaml", host=host)) is warned


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RaymlopsError, match=r"--emit: cannot write .*nowhere"):
        written(tmp_path / "nowhere" / "serve.yaml")
