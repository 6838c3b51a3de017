"""Routes, tokens, limits and the pages that describe an endpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conformance import check_conformance, open_inference
from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import JSON, ROWS, Server, infer_body, numbers_only, post, rules
from schemathesis.core.failures import FailureGroup

from raymlops.config.serving import Limits, Tokens
from raymlops.errors import ConfigError
from raymlops.serving.protocol import (
    Authenticator,
    ModelSchema,
    ProtocolError,
    Rules,
    check_length,
    check_model,
    match,
    model_metadata,
    openapi_document,
    parse_feedback,
    parse_order,
)
from raymlops.serving.protocol.decoding import check_nesting, check_values


@pytest.mark.parametrize(
    ("method", "path", "operation", "model", "version"),
    [
        ("GET", "/v2", "server", None, None),
        ("GET", "/v2/", "server", None, None),
        ("HEAD", "/v2/health/live", "live", None, None),
        ("GET", "/v2/health/ready", "ready", None, None),
        ("GET", "/v2/models/a", "model", "a", None),
        ("GET", "/v2/models/a/", "model", "a", None),
        ("GET", "/v2/models/a/ready", "model_ready", "a", None),
        ("POST", "/v2/models/a/infer", "infer", "a", None),
        ("GET", "/v2/models/a/versions/3", "model", "a", "3"),
        ("GET", "/v2/models/a/versions/3/ready", "model_ready", "a", "3"),
        ("POST", "/v2/models/a/versions/3/infer", "infer", "a", "3"),
        ("POST", "/v2/models/a/versions/3/rows", "rows", "a", "3"),
        ("POST", "/v2/models/a/feedback", "feedback", "a", None),
        ("POST", "/v2/models/versions/infer", "infer", "versions", None),
        ("POST", "/invocations", "invocations", None, None),
        ("GET", "/ping", "ping", None, None),
        ("GET", "/health", "ping", None, None),
        ("GET", "/version", "version", None, None),
        ("GET", "/openapi.json", "openapi", None, None),
        ("GET", "/docs", "docs", None, None),
    ],
)
def test_routes(method: str, path: str, operation: str, model: str | None, version: str | None) -> None:
    route = match(method, path)
    assert (route.operation, route.model, route.version) == (operation, model, version)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/a/versions",
        "/v2/models/a/versions//infer",
        "/v2/models/a/versions/3/feedback",
        "/v2/models/a/infer/more",
        "/v2/models/a//",
        "/v1/models/a",
        "/docs//",
        "//v2",
        "/v2/models/a/versions/3/infer/x/y/z",
    ],
)
def test_paths_that_nothing_answers(path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        match("GET", path)
    assert caught.value.status == 404


def test_other_methods_are_405_with_allow() -> None:
    for method, path, allow in (("GET", "/v2/models/a/infer", "POST"), ("DELETE", "/docs", "GET, HEAD")):
        with pytest.raises(ProtocolError) as caught:
            match(method, path)
        encoded = caught.value.encode()
        assert caught.value.status == 405 and encoded.headers["allow"] == allow
        assert json.loads(encoded.body)["error"].startswith("method: found")


@given(st.text(max_size=40), st.text(max_size=6))
def test_any_path_is_a_route_or_refused(path: str, method: str) -> None:
    for each in (path, "/v2/models/" + path, "/v2/models/a/versions/" + path):
        try:
            match(method, each)
        except ProtocolError as error:
            assert error.status in (404, 405)
            json.loads(error.encode().body)


def test_models_and_versions_that_are_not_served() -> None:
    by = rules().schema
    check_model(match("GET", "/v2/models/trip/versions/4"), by)
    for path, says in (
        ("/v2/models/trap", "model: found 'trap', this endpoint serves 'trip'"),
        ("/v2/models/trip/versions/9", "version: found '9', 'trip' is served in version 3, 4"),
    ):
        with pytest.raises(ProtocolError) as caught:
            check_model(match("GET", path), by)
        assert caught.value.status == 404 and caught.value.message == says


class TestLimits:
    @pytest.mark.parametrize(
        ("length", "status"),
        [("100", None), ("1025", 413), ("9" * 5000, 413), ("-1", 400), ("x", 400), ("", 400), ("١", 400)],
    )
    def test_content_length(self, length: str, status: int | None) -> None:
        limits = Limits(body_bytes=1024)
        if status is None:
            check_length({"content-length": length}, limits)
            check_length({}, limits)
            return
        with pytest.raises(ProtocolError) as caught:
            check_length({"content-length": length}, limits)
        assert caught.value.status == status

    @pytest.mark.parametrize("path", ["/v2/models/trip/infer", "/v2/models/trip/rows", "/invocations"])
    def test_body_nesting_containers_and_compression(self, path: str) -> None:
        server = Server(rules(limits=Limits(body_bytes=100_000, rows=5)))
        for body, headers, status in (
            (b" " * 100_001, {}, 413),
            (b"[" * 9 + b"]" * 9, {}, 422),
            (b"[" * 50_000 + b"]" * 50_000, {}, 413),
            (b"[" + b"[]," * 20_000 + b"[]]", {}, 413),
            (b"[" + b"1," * 20_000 + b"1]", {}, 413),
            (b"[" * 40, {}, 400),
            (b"{}", {"content-encoding": "gzip"}, 415),
        ):
            assert post(server, path, body, headers)[0] == status, body[:20]

    def test_rows_are_counted_before_they_are_read(self) -> None:
        content = {"inputs": [{"name": "x", "shape": [51], "datatype": "FP64", "data": ["not a number"]}]}
        assert post(Server(numbers_only("x")), "/v2/models/trip/infer", content)[0] == 413


class TestOrders:
    def test_an_order_is_read(self) -> None:
        found = parse_order(b'{"reason": " a table was corrected ", "id": "batch-7"}', JSON, rules())
        assert found == ("a table was corrected", "webhook", "batch-7")
        assert parse_order(b'{"reason": "x", "by": "dbt"}', JSON, rules()) == ("x", "dbt", None)

    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            ({}, 400, "reason"),
            ({"reason": " "}, 400, "reason"),
            ({"reason": 1}, 400, "reason"),
            ({"reason": "x" * 10_000}, 422, "reason"),
            ({"reason": "x", "by": []}, 400, "by"),
            ({"reason": "x", "id": "../../x"}, 400, "id"),
            ({"reason": "x", "id": ""}, 400, "id"),
            ({"reason": "x", "force": True}, 400, "force"),
        ],
    )
    def test_what_is_no_order_is_refused_by_field(self, body: dict[str, Any], status: int, field: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            parse_order(json.dumps(body).encode(), JSON, rules())
        assert (caught.value.status, caught.value.field) == (status, field)

    def test_a_page_of_another_site_cannot_order(self) -> None:
        with pytest.raises(ProtocolError) as caught:
            parse_order(b'{"reason": "x"}', {"content-type": "text/plain"}, rules())
        assert caught.value.status == 415

    def test_it_is_described_where_there_is_a_token_for_it(self) -> None:
        path = "/v2/models/trip/retraining"
        assert path not in openapi_document(rules(), Tokens())["paths"]
        operation = openapi_document(rules(), Tokens(admin="env:X"))["paths"][path]["post"]
        assert operation["security"] == [{"admin": []}] and "202" in operation["responses"]
        assert match("POST", path).access == "admin"


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{}"\\a,:é\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}"\\b', max_size=4), inner, max_size=4),
    max_leaves=30,
)


@given(trees, st.integers(0, 8), st.booleans())
def test_nesting_is_measured_exactly_whatever_is_in_strings(tree: Any, depth: int, ascii_only: bool) -> None:
    body = json.dumps(tree, ensure_ascii=ascii_only).encode()
    if depth_of(tree) <= depth:
        check_nesting(body, depth, 10_000)
    else:
        with pytest.raises(ProtocolError) as caught:
            check_nesting(body, depth, 10_000)
        assert caught.value.status == 422


@given(st.binary(max_size=60) | st.text('[]{}"\\,', max_size=60).map(str.encode))
def test_nesting_of_anything_is_measured_without_fault(body: bytes) -> None:
    try:
        check_nesting(body, 3, 8)
    except ProtocolError as error:
        assert error.status in (413, 422)


def commas_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return max(len(inner) - 1, 0) + sum(map(commas_of, inner))


@given(trees, st.integers(0, 8), st.booleans())
def test_values_are_counted_exactly_whatever_is_in_strings(tree: Any, most: int, ascii_only: bool) -> None:
    body = json.dumps(tree, ensure_ascii=ascii_only).encode()
    if commas_of(tree) <= most:
        check_values(body, most)
    else:
        with pytest.raises(ProtocolError, match=f"found {commas_of(tree)} commas between values") as caught:
            check_values(body, most)
        assert caught.value.status == 413


def test_as_many_values_as_the_rows_may_have_are_read() -> None:
    labels = {"labels": [{"prediction_id": f"a,b{n}", "label": 1.0, "at": 2.0} for n in range(50)]}
    bare = Rules(ModelSchema("trip", ("3",), "regression", {}), Limits(rows=50))
    headers = {"content-type": "application/json"}
    assert len(parse_feedback(json.dumps(labels).encode(), headers, bare)) == 50


class TestTokens:
    @pytest.fixture
    def authenticator(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Authenticator:
        monkeypatch.setenv("RAYMLOPS_TEST_TOKEN", "s3cret-one\n")
        (tmp_path / "token").write_text("s3cret-two\n")
        return Authenticator.of(Tokens(inference="env:RAYMLOPS_TEST_TOKEN", feedback=f"file:{tmp_path}/token"))

    def test_each_access_has_its_own(self, authenticator: Authenticator) -> None:
        one, two = {"authorization": "Bearer s3cret-one"}, {"authorization": "bearer  s3cret-two "}
        authenticator.check("inference", one)
        authenticator.check("feedback", two)
        authenticator.check("admin", {})  # no token is configured
        authenticator.check(None, {})
        assert authenticator.protects("inference") and not authenticator.protects("admin")
        for access, headers in (("inference", two), ("feedback", one)):
            with pytest.raises(ProtocolError) as caught:
                authenticator.check(access, headers)
            assert caught.value.status == 401
            assert caught.value.headers == {"www-authenticate": 'Bearer error="invalid_token"'}

    @pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic s3cret-one", "s3cret-one", "Bearer \xff"])
    def test_missing_and_malformed(self, authenticator: Authenticator, value: str | None) -> None:
        with pytest.raises(ProtocolError) as caught:
            authenticator.check("inference", {} if value is None else {"authorization": value})
        assert caught.value.status == 401 and caught.value.headers["www-authenticate"].startswith("Bearer")

    def test_nothing_shows_a_token(self, authenticator: Authenticator) -> None:
        with pytest.raises(ProtocolError) as caught:
            authenticator.check("inference", {"authorization": "Bearer wrong-secret"})
        for text in (repr(authenticator), str(vars(authenticator)), str(caught.value), str(caught.value.encode())):
            assert "s3cret" not in text and "wrong-secret" not in text

    def test_sources_that_hold_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAYMLOPS_TEST_TOKEN", "two words")
        (tmp_path / "empty").write_text(" \n")
        for source in ("env:RAYMLOPS_NOT_SET", "env:RAYMLOPS_TEST_TOKEN", f"file:{tmp_path}/empty", "file:/not/there"):
            with pytest.raises(ConfigError, match=r"^serving\.tokens\.admin: ") as caught:
                Authenticator.of(Tokens(admin=source))
            assert "two words" not in str(caught.value)

    def test_what_stays_open(self, authenticator: Authenticator) -> None:
        server = Server(rules())
        server.authenticator = authenticator
        for path in ("/v2/health/live", "/v2/health/ready", "/ping", "/v2", "/docs", "/v2/models/trip/ready"):
            assert server.respond("GET", path, {}, b"")[0] == 200, path
        for method, path in (
            ("GET", "/v2/models/trip"),
            ("GET", "/openapi.json"),
            ("POST", "/v2/models/trip/infer"),
            ("POST", "/v2/models/trip/rows"),
            ("POST", "/v2/models/trip/feedback"),
            ("POST", "/invocations"),
        ):
            assert server.respond(method, path, {}, b"")[0] == 401, path


class TestDescription:
    def test_model_metadata(self) -> None:
        assert model_metadata(rules().schema) == {
            "name": "trip",
            "versions": ["3", "4"],
            "platform": "raymlops",
            "inputs": [
                {"name": "distance", "datatype": "FP64", "shape": [-1]},
                {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
                {"name": "leaves", "datatype": "BYTES", "shape": [-1]},
                {"name": "pixels", "datatype": "FP32", "shape": [-1, 2, 2]},
                {"name": "month", "datatype": "FP64", "shape": [-1]},
            ],
            "outputs": [
                {"name": "prediction", "datatype": "BYTES", "shape": [-1]},
                {"name": "probability_no", "datatype": "FP64", "shape": [-1]},
                {"name": "probability_yes", "datatype": "FP64", "shape": [-1]},
            ],
        }

    def test_the_documents_own_examples_are_accepted(self) -> None:
        server = Server(rules())
        document = openapi_document(server.rules, Tokens())
        called = 0
        for path, item in document["paths"].items():
            if "post" not in item:
                continue
            content = item["post"]["requestBody"]["content"]["application/json"]["schema"]
            example = document["components"]["schemas"][content["$ref"].rpartition("/")[2]]["example"]
            assert post(server, path.replace("{version}", "3"), example)[0] == 200, path
            called += 1
        assert called == 6

    def test_operations_that_want_a_token_say_so(self) -> None:
        document = openapi_document(rules(), Tokens(inference="env:A"))
        infer, feedback = (document["paths"][f"/v2/models/trip/{name}"]["post"] for name in ("infer", "feedback"))
        assert infer["security"] == [{"inference": []}] and "401" in infer["responses"]
        assert "security" not in feedback
        assert document["components"]["securitySchemes"].keys() == {"inference"}

    def test_the_page_loads_nothing_from_elsewhere(self) -> None:
        status, page, headers = Server(rules()).respond("GET", "/docs", {}, b"")
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", page.decode())


class TestConformance:
    def test_open_inference_protocol(self) -> None:
        assert check_conformance(open_inference("trip", "3"), app=Server(rules()), examples=20) == 6

    def test_own_document(self) -> None:
        by = rules()
        assert check_conformance(openapi_document(by, Tokens()), app=Server(by), examples=8) == 16

    def test_a_wrong_server_is_found_out(self) -> None:
        class Wrong(Server):
            def respond(self, *request: Any) -> Any:
                status, body, headers = super().respond(*request)
                return status, body.replace(b"extensions", b"extras"), headers

        with pytest.raises(FailureGroup):
            check_conformance(open_inference("trip", "3"), app=Wrong(rules()), examples=5)


def test_a_valid_request_of_each_protocol_is_answered() -> None:
    server = Server(rules())
    assert post(server, "/v2/models/trip/versions/3/infer", infer_body())[0] == 200
    assert post(server, "/v2/models/trip/rows", {"rows": ROWS})[0] == 200
    assert post(server, "/invocations", {"dataframe_records": ROWS})[0] == 200
    labels = {"labels": [{"prediction_id": "p", "label": "yes"}]}
    assert post(server, "/v2/models/trip/feedback", labels) == (200, {"accepted": 1})


def test_paths_that_are_no_unicode_are_refused_like_others() -> None:
    for path in ("/v2/models/\ud800", "/\ud800"):
        status, reply, _ = Server(rules()).respond("GET", path, {}, b"")
        assert status == 404 and json.loads(reply)["error"]
