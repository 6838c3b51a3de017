"""Whatever schemathesis thinks of, the endpoint answers as its own document and the protocol's public one say."""

from __future__ import annotations

from conformance import check_conformance, open_inference
from conftest import Endpoint


def test_its_own_document(endpoint: Endpoint) -> None:
    document = endpoint.get("/openapi.json").json()
    assert check_conformance(document, base_url=endpoint.url, examples=20) >= 8


def test_the_open_inference_protocol(endpoint: Endpoint) -> None:
    document = open_inference(endpoint.name, endpoint.champion.version)
    assert check_conformance(document, base_url=endpoint.url, examples=20) >= 5
