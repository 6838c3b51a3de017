"""A registered model through MLflow alone: another process, another directory, a scoring server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from registry_cases import NOW, config_of, judge, make_package, rows, user_files, with_user_code

from raymlops.registry import publishing
from raymlops.registry.backend import tracking
from raymlops.registry.catalog import find_report, list_models
from raymlops.registry.package import ModelPackage, read_files
from raymlops.registry.tracking import Tracker
from raymlops.registry.versions import champion, find_version
from raymlops.store import Store

TASKS = ("regression", "binary", "multiclass")
ASK = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
frame = pd.read_parquet(sys.argv[2])
whole = model.predict(frame)
alike = {
    "ints": model.predict(frame.assign(alpha=frame["alpha"].fillna(7).round().astype("int64"))),
    "floats": model.predict(frame.assign(zeta=frame["zeta"].astype("float64"))),
    "records": model.predict(frame.to_dict("records")),
    "text": model.predict(frame.assign(leaves=frame["leaves"].astype("str")).to_dict("records")),
    "zone": model.predict(frame.assign(leaves=frame["leaves"].dt.tz_localize("UTC"))),
    "columns": model.predict({name: list(frame[name]) for name in frame}),
    "one": model.predict(frame.iloc[[4]]),
    "reordered": model.predict(frame[sorted(frame.columns, reverse=True)].assign(extra=1)),
}
import raymlops
print(json.dumps({
    "whole": whole.to_dict("list"),
    "alike": {k: v.to_dict("list") for k, v in alike.items()},
    "ray": "ray" in sys.modules,
    "code": raymlops.__file__,
}))
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, ModelPackage]]]:
    """Champions of the three tasks in one store, all with user code whose directory is gone."""
    root = tmp_path_factory.mktemp("registry")
    user, packages = user_files(root / "user"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for task in TASKS:
            config = with_user_code(config_of(task, root / "storage", name=f"trip-{task}"))
            package = make_package(root / task, config, user)
            with Tracker(config, Store(str(root / "storage")), user, NOW) as job:
                evaluation, verdict = judge(config, package)
                logged = publishing.log_package(job, root / task, package, raw(package, 3))
                publishing.register(job, logged, replace(verdict, blessed=True), evaluation.metrics, "ab", None)
            packages[task] = package
    shutil.rmtree(user)
    yield root, packages


def raw(package: ModelPackage, n: int) -> pd.DataFrame:
    return rows(n, seed=9)[package.config.features.raw_columns()]


def environment(root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"  # `mlflow models serve` looks for uvicorn there
    return {**kept, "MLFLOW_TRACKING_URI": f"sqlite:///{root}/storage/mlflow.db", "PYTHONWARNINGS": "ignore"}


@pytest.mark.parametrize("task", TASKS)
def test_plain_mlflow_loads_the_champion_in_a_fresh_process_elsewhere(
    registered: tuple[Path, dict[str, ModelPackage]], tmp_path: Path, task: str
) -> None:
    root, packages = registered
    frame = raw(packages[task], 40)
    frame.to_parquet(tmp_path / "rows.parquet")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ASK, f"models:/trip-{task}@champion", str(tmp_path / "rows.parquet")],
        cwd=tmp_path,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    expected = packages[task].predict(frame)
    same(answer["whole"], expected)
    for form in ("floats", "records", "text", "zone", "columns", "reordered"):
        same(answer["alike"][form], expected)
    same(answer["alike"]["one"], expected.iloc[[4]])
    filled = frame.assign(alpha=frame["alpha"].fillna(7).round())
    same(answer["alike"]["ints"], packages[task].predict(filled))
    assert not answer["ray"]


def test_the_stored_model_needs_nothing_but_what_it_declares(
    registered: tuple[Path, dict[str, ModelPackage]], tmp_path: Path
) -> None:
    """Its own copy of raymlops is complete, and holds sources only."""
    from mlflow.models import Model

    root, packages = registered
    [stored] = [p.parent for p in (root / "storage" / "mlartifacts" / "trip-binary").rglob("MLmodel")]
    # Python itself writes byte code beside what it imports from here, once a model was loaded.
    shipped = [p.relative_to(stored / "code") for p in (stored / "code").rglob("*") if p.is_file()]
    shipped = [p for p in shipped if "__pycache__" not in p.parts]
    assert {p.suffix for p in shipped} <= {".py", ".html", ".typed"}
    assert Path("raymlops/registry/pyfunc.py") in shipped
    hide = (
        "import sys; sys.path[:] = [p for p in sys.path if 'raymlops' not in p]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    )
    raw(packages["binary"], 5).to_parquet(tmp_path / "rows.parquet")
    done = subprocess.run(
        [sys.executable, "-I", "-c", hide + ASK, "models:/trip-binary@champion", str(tmp_path / "rows.parquet")],
        cwd=tmp_path,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["code"].startswith(str(stored / "code"))
    requirements = (stored / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements) and any(line.startswith("torch==") for line in requirements)
    model = Model.load(str(stored))
    assert model.signature.inputs.input_names() == packages["binary"].config.features.raw_columns()
    assert model.metadata["columns"]["zeta"] == ["numeric", "input of sum"]
    assert model.metadata["weights_sha256"] == packages["binary"].manifest["weights_sha256"]
    assert model.signature.outputs.input_names() == ["prediction", "probability_no", "probability_yes"]
    assert len(model.load_input_example(str(stored))) == 3
    data = read_files(stored / "data" / "binary")
    assert {Path(name).suffix for name in data} == {".json", ".py", ".safetensors"}


def test_mlflow_models_serve_answers_every_form_of_request(
    registered: tuple[Path, dict[str, ModelPackage]], tmp_path: Path
) -> None:
    root, packages = registered
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/trip-multiclass@champion"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*serve, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=tmp_path,
            env=environment(root),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
            check_answers(f"http://127.0.0.1:{port}/invocations", packages["multiclass"])
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)


def test_a_job_records_to_a_server_and_another_machine_loads_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "served"), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            cwd=tmp_path,
            env={**environment(tmp_path), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"{uri}/health", server, tmp_path / "log")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            config = config_of(storage=tmp_path / "storage")
            package = make_package(tmp_path / "package", config)
            evaluation, verdict = judge(config, package)
            for alias in ("champion", "candidate"):
                with Tracker(config, Store(str(tmp_path / "storage")), tmp_path, NOW) as job:
                    job.log_trial("trial-000", {}, [{"epoch": 0, "metric": float("nan")}], "completed")
                    current = champion(job.tracking, config.name)
                    logged = publishing.log_package(job, tmp_path / "package", package, raw(package, 3))
                    publishing.log_evaluation(job, evaluation, verdict, logged)
                    blessed = replace(verdict, blessed=True)
                    registered = publishing.register(job, logged, blessed, evaluation.metrics, "ab", current)
                    job.log_report("<html>")
                assert registered.alias == alias
            found = find_version(tracking(None, Store("unused")), config.name)
            np.testing.assert_array_equal(found.load().scores(rows(5)), package.scores(rows(5)))
            assert find_report("unused", None, job.run_id[:10]) == (job.run_id, "<html>")
            assert [row.version for row in list_models("unused", uri)] == ["2", "1"]
            assert not (tmp_path / "storage").exists()
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)


def check_answers(url: str, package: ModelPackage) -> None:
    frame = raw(package, 8)
    expected = package.predict(frame)
    plain = json.loads(frame.to_json(orient="split", date_format="iso", date_unit="us"))
    records = [dict(zip(plain["columns"], row, strict=True)) for row in plain["data"]]
    columns = {name: [record[name] for record in records] for name in plain["columns"]}
    assert any(value is None for value in columns["carrier"]) and any(value is None for value in columns["alpha"])
    for body in (
        {"dataframe_split": {"columns": plain["columns"], "data": plain["data"]}},
        {"dataframe_records": records},
        {"inputs": columns},
        {"instances": records},
    ):
        status, answer = post(url, body)
        assert status == 200, answer
        same(pd.DataFrame(answer["predictions"]).to_dict("list"), expected)
    status, answer = post(url, {"dataframe_records": records[:1]})
    same(pd.DataFrame(answer["predictions"]).to_dict("list"), expected.iloc[:1])
    status, answer = post(url, {"dataframe_records": [{**records[0], "zeta": "many"}]})
    assert status == 400 and "zeta" in json.dumps(answer) and "many" in json.dumps(answer)


def same(found: dict[str, list[Any]], expected: pd.DataFrame) -> None:
    assert list(found) == list(expected.columns)
    for name in expected:
        if name == "prediction" and not pd.api.types.is_numeric_dtype(expected[name]):
            assert found[name] == list(expected[name])
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
