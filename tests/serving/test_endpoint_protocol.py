"""The endpoint as clients see it: protocols, answers, refusals."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from conftest import Endpoint

from raymlops.serving.ingress import LARGE_BODY


def expected(endpoint: Endpoint, rows: list[dict[str, Any]]) -> list[float]:
    frame = pd.DataFrame(rows).assign(leaves=lambda f: pd.to_datetime(f["leaves"]))
    return endpoint.package.predict(frame)["prediction"].tolist()


def test_rows_are_answered_as_the_registered_model_answers(endpoint: Endpoint) -> None:
    rows = endpoint.rows(20)
    reply = endpoint.predict(rows)
    assert reply.status_code == 200, reply.text
    np.testing.assert_allclose([row["prediction"] for row in reply.json()["rows"]], expected(endpoint, rows), rtol=1e-5)
    assert reply.headers["x-raymlops-version"] == endpoint.champion.version
    assert reply.headers["x-raymlops-variant"] == "champion"
    assert len(reply.headers["x-raymlops-prediction-id"]) >= 20


def test_tritons_client_speaks_to_it_in_json_and_binary(endpoint: Endpoint) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(endpoint.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(endpoint.name)
    assert client.get_model_metadata(endpoint.name)["versions"] == [endpoint.champion.version]
    # Binary tensors of numbers have no null.
    rows = [
        row for row in endpoint.rows(20) if not any(value is None for name, value in row.items() if name != "carrier")
    ]
    for binary in (True, False):
        inputs = []
        for column in client.get_model_metadata(endpoint.name)["inputs"]:
            kind = column["datatype"]
            values = [row[column["name"]] for row in rows]
            if kind == "BYTES":
                array = np.array(["" if v is None else str(v) for v in values], dtype=object)
            else:
                dtype = {"FP64": np.float64, "FP32": np.float32}[kind]
                array = np.array(values, dtype=dtype).reshape(len(rows), *column["shape"][1:])
            one = http.InferInput(column["name"], list(array.shape), kind)
            one.set_data_from_numpy(array, binary_data=binary)
            inputs.append(one)
        output = http.InferRequestedOutput("prediction", binary_data=binary)
        answer = client.infer(endpoint.name, inputs, outputs=[output], request_id="r-1")
        cleared = [{**row, "carrier": row["carrier"] or ""} for row in rows]
        np.testing.assert_allclose(answer.as_numpy("prediction"), expected(endpoint, cleared), rtol=1e-5)
        assert answer.get_response()["id"] == "r-1"


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs"])
def test_mlflows_protocol(endpoint: Endpoint, form: str) -> None:
    rows = endpoint.rows(4)
    names = list(rows[0])
    content: Any = rows
    if form == "dataframe_split":
        content = {"columns": names, "data": [list(row.values()) for row in rows]}
    elif form == "inputs":
        content = {name: [row[name] for row in rows] for name in names}
    reply = endpoint.post("/invocations", json={form: content})
    assert reply.status_code == 200, reply.text
    found = [row["prediction"] for row in reply.json()["predictions"]]
    np.testing.assert_allclose(found, expected(endpoint, rows), rtol=1e-5)
    assert endpoint.get("/ping").status_code == 200


def test_it_describes_itself(endpoint: Endpoint) -> None:
    assert endpoint.get("/v2/health/ready").json() == {"ready": True}
    assert endpoint.get("/docs").headers["content-type"].startswith("text/html")
    document = endpoint.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"zeta": "many"}, 400, "zeta"),
        ({"unheard_of": 1}, 400, "unheard_of"),
        ({"pixels": [1.0]}, 400, "pixels"),
        ({"leaves": "yesterday"}, 400, "leaves"),
        ({"zeta": math.nan}, 400, "zeta"),
        ({"pixels": [1.0, 2.0, 3.0, "x"]}, 400, "pixels"),
    ],
)
def test_wrong_rows_are_refused_by_name(endpoint: Endpoint, change: dict[str, Any], status: int, named: str) -> None:
    body = json.dumps({"rows": [endpoint.rows(1)[0] | change]})  # requests itself would refuse NaN
    reply = endpoint.post(f"/v2/models/{endpoint.name}/rows", data=body)
    assert status <= reply.status_code < 500 and named in reply.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"rows": []}', b"\xff\xfe", b"[" * 5000])
def test_bodies_that_are_no_request_are_refused(endpoint: Endpoint, body: bytes) -> None:
    for path in (f"/v2/models/{endpoint.name}/rows", f"/v2/models/{endpoint.name}/infer", "/invocations"):
        reply = endpoint.post(path, data=body, headers={"content-type": "application/json"})
        assert 400 <= reply.status_code < 500, (path, reply.status_code, reply.text)


def test_large_bodies_are_answered_and_refused_like_small_ones(endpoint: Endpoint) -> None:
    rows, wrong = endpoint.rows(3), [{**endpoint.rows(1)[0], "zeta": "many"}]

    def post(content: list[dict[str, Any]], padding: int) -> requests.Response:
        body = json.dumps({"rows": content}).encode() + b" " * padding
        return endpoint.post(f"/v2/models/{endpoint.name}/rows", data=body)

    small, large = post(rows, 0), post(rows, LARGE_BODY)
    assert small.status_code == large.status_code == 200
    assert small.json()["rows"] == large.json()["rows"]
    small, large = post(wrong, 0), post(wrong, LARGE_BODY)
    assert small.status_code == large.status_code == 400
    assert small.json() == large.json() and "zeta" in large.text


def test_limits_hold(endpoint: Endpoint) -> None:
    assert endpoint.predict(endpoint.rows(1) * 501).status_code == 413
    big = json.dumps({"rows": endpoint.rows(1), "filler": "x" * 300_000})
    reply = endpoint.post(f"/v2/models/{endpoint.name}/rows", data=big, headers={"content-type": "application/json"})
    assert reply.status_code == 413

    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 10_000

    reply = endpoint.post(f"/v2/models/{endpoint.name}/rows", data=chunks())  # says no length beforehand
    assert reply.status_code == 413


def test_unknown_paths_methods_models_and_versions(endpoint: Endpoint) -> None:
    assert endpoint.get("/nothing").status_code == 404
    assert endpoint.get("/invocations").status_code == 405
    assert endpoint.get("/v2/models/other").status_code == 404
    assert endpoint.get(f"/v2/models/{endpoint.name}/versions/999").status_code == 404


def test_the_variant_can_be_chosen_where_that_is_allowed(endpoint: Endpoint) -> None:
    assert endpoint.predict(endpoint.rows(1), x_raymlops_variant="champion").status_code == 200
    assert endpoint.predict(endpoint.rows(1), x_raymlops_variant="candidate-7").status_code == 404


def test_feedback_is_acknowledged_and_idempotent(endpoint: Endpoint) -> None:
    prediction_id = endpoint.predict(endpoint.rows(1)).headers["x-raymlops-prediction-id"]
    labels = {"labels": [{"prediction_id": prediction_id, "label": 12.5}]}
    path = f"/v2/models/{endpoint.name}/feedback"
    for _ in range(2):
        reply = endpoint.post(path, json=labels)
        assert reply.status_code == 200, reply.text
    assert endpoint.post(path, json={"labels": [{"label": 1.0}]}).status_code == 400


def test_ids_are_never_given_twice(endpoint: Endpoint) -> None:
    ids = Counter(endpoint.predict(endpoint.rows(1)).headers["x-raymlops-prediction-id"] for _ in range(30))
    assert max(ids.values()) == 1


@pytest.mark.parametrize("value", ["-1", "0", "0.000001", "nonsense"])
def test_a_header_of_the_client_changes_no_limit(endpoint: Endpoint, value: str) -> None:
    """Serve would take it as the request's timeout."""
    headers = {"x_request_timeout_seconds": value, "x_request_disconnect_disabled": "?0"}
    assert endpoint.predict(endpoint.rows(1), **headers).status_code == 200
