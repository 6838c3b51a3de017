"""What a server says about itself: health, metadata, its description and its page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from raymlops import __version__
from raymlops.config.serving import Tokens
from raymlops.serving.protocol.errors import JSON, Encoded, encode_json
from raymlops.serving.protocol.openapi import openapi_document
from raymlops.serving.protocol.routes import Route
from raymlops.serving.protocol.schema import ModelSchema, Rules

EXTENSIONS = ["binary_tensor_data"]
PLATFORM = "raymlops"


def server_metadata() -> dict[str, Any]:
    """GET /v2"""
    return {"name": PLATFORM, "version": __version__, "extensions": EXTENSIONS}


def model_metadata(schema: ModelSchema, version: str | None = None) -> dict[str, Any]:
    """GET /v2/models/NAME; of one version when the path names it."""
    inputs = [
        {"name": column.name, "datatype": column.datatype, "shape": [-1, *column.shape]}
        for column in schema.columns.values()
        if column.required
    ]
    outputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in schema.outputs.items()]
    versions = [version] if version is not None else list(schema.versions)
    return {"name": schema.name, "versions": versions, "platform": PLATFORM, "inputs": inputs, "outputs": outputs}


def health(route: Route, ready: bool) -> tuple[int, Encoded]:
    """Status and body for `live`, `ready`, `model_ready` and `ping`. Whoever answers at all is live."""
    if route.operation == "ping":  # as MLflow's
        return (200 if ready else 503), Encoded(b"\n", {"content-type": JSON})
    if route.operation == "live":
        return 200, encode_json({"live": True})
    content: dict[str, Any] = {"ready": ready}
    if route.model is not None:
        content = {"name": route.model, **content}
    return (200 if ready else 503), encode_json(content)


def describe(route: Route, rules: Rules, tokens: Tokens) -> Encoded:
    """The answer to every other GET: `server`, `model`, `version`, `openapi` and `docs`."""
    if route.operation == "server":
        return encode_json(server_metadata())
    if route.operation == "model":
        return encode_json(model_metadata(rules.schema, route.version))
    if route.operation == "version":
        return Encoded(_mlflow_version().encode(), {"content-type": JSON})
    if route.operation == "openapi":
        return encode_json(openapi_document(rules, tokens))
    return Encoded(docs_page(), dict(PAGE_HEADERS))


PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@cache
def docs_page() -> bytes:
    """A page that reads /openapi.json and lets one try the operations. It loads nothing from anywhere else."""
    return (Path(__file__).parent / "docs.html").read_bytes()


@cache
def _mlflow_version() -> str:
    """GET /version names MLflow's version: clients ask it to know which protocol is spoken."""
    from importlib.metadata import version

    return version("mlflow")
