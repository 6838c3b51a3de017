"""The endpoint's OpenAPI 3.1 document, with the model's own columns in it."""

from __future__ import annotations

from typing import Any

from raymlops import __version__
from raymlops.config.serving import Tokens
from raymlops.serving.protocol.auth import ACCESSES
from raymlops.serving.protocol.openapi_schemas import body_schemas
from raymlops.serving.protocol.schema import Rules

Json = dict[str, Any]


def openapi_document(rules: Rules, tokens: Tokens) -> Json:
    """As JSON values. Operations that want a token say so."""
    schema, model = rules.schema, f"/v2/models/{rules.schema.name}"
    paths: Json = {
        "/v2/health/live": _get("live", "Server live", {"live": {"type": "boolean"}}),
        "/v2/health/ready": _get("ready", "Server ready", {"ready": {"type": "boolean"}}, unready=True),
        "/v2": _get("server", "Server metadata", reply="#/components/schemas/Server"),
        "/ping": _plain("ping", "MLflow: healthy", unready=True),
        "/health": _plain("health", "MLflow: healthy", unready=True),
        "/version": _plain("version", "Version of MLflow"),
        "/invocations": _invocations(tokens),
        f"{model}/feedback": _post(
            "feedback", "Labels of earlier predictions", "Labels", "Accepted", tokens, "feedback"
        ),
    }
    if tokens.admin is not None:
        paths[f"{model}/retraining"] = _order(tokens)
    version: Json = {"name": "version", "in": "path", "required": True}
    version |= {"schema": {"type": "string", "enum": list(schema.versions)}}
    for suffix, path, parameters in (("", model, []), ("_version", f"{model}/versions/{{version}}", [version])):
        paths[path] = _get(f"model{suffix}", "Model metadata", reply="#/components/schemas/Model", tokens=tokens)
        paths[f"{path}/ready"] = _get(
            f"model_ready{suffix}",
            "Model ready",
            {"name": {"type": "string"}, "ready": {"type": "boolean"}},
            unready=True,
        )
        paths[f"{path}/infer"] = _infer(f"infer{suffix}", tokens)
        paths[f"{path}/rows"] = _post(f"rows{suffix}", "Rows of named columns", "Rows", "RowsAnswer", tokens)
        for item in (paths[path], paths[f"{path}/ready"], paths[f"{path}/infer"], paths[f"{path}/rows"]):
            if parameters:
                item["parameters"] = parameters
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{schema.name} ({schema.task})", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": body_schemas(rules),
            "securitySchemes": {
                access: {"type": "http", "scheme": "bearer", "description": f"the token for {access}"}
                for access in ACCESSES
                if getattr(tokens, access) is not None
            },
        },
    }


_ABOUT = (
    "Open Inference Protocol v2 (JSON, and binary tensor data as tritonclient sends it), MLflow's scoring protocol, "
    "and rows of named columns. Replies carry x-raymlops-version, x-raymlops-variant and x-raymlops-prediction-id."
)


def _get(
    name: str,
    summary: str,
    properties: Json | None = None,
    reply: str | None = None,
    unready: bool = False,
    tokens: Tokens | None = None,
) -> Json:
    content = (
        {"$ref": reply} if reply else {"type": "object", "properties": properties, "required": list(properties or {})}
    )
    body = {"application/json": {"schema": content}}
    responses: Json = {"200": {"description": "OK", "content": body}}
    if unready:
        responses["503"] = {"description": "Not ready", "content": body}
    operation = {"operationId": name, "summary": summary, "responses": responses}
    return {"get": operation if tokens is None else _guarded(operation, tokens, "inference")}


def _plain(name: str, summary: str, unready: bool = False) -> Json:
    responses = {"200": {"description": "OK"}} | ({"503": {"description": "Not ready"}} if unready else {})
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _post(name: str, summary: str, request: str, reply: str, tokens: Tokens, access: str = "inference") -> Json:
    operation = {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": {"description": "OK", "content": _json(reply)}, **_REFUSALS},
    }
    return {"post": _guarded(operation, tokens, access)}


def _order(tokens: Tokens) -> Json:
    item = _post("retraining", "Order a retraining", "Order", "Ordered", tokens, "admin")
    responses = item["post"]["responses"]
    responses["202"] = responses.pop("200") | {"description": "Waits for the next round of the loop"}
    return item


def _infer(name: str, tokens: Tokens) -> Json:
    item = _post(name, "Open Inference Protocol v2", "InferRequest", "InferResponse", tokens)
    item["post"]["responses"]["200"]["content"]["application/octet-stream"] = {
        "schema": {"type": "string", "format": "binary", "description": "JSON, then binary tensor data, when asked for"}
    }
    return item


def _invocations(tokens: Tokens) -> Json:
    item = _post("invocations", "MLflow's scoring protocol", "Invocation", "Predictions", tokens)
    item["post"]["requestBody"]["content"]["text/csv"] = {"schema": {"type": "string"}}
    refusal = {"description": "Refused", "content": _json("MlflowError")}
    item["post"]["responses"] |= dict.fromkeys((s for s in _REFUSALS if s != "401"), refusal)
    return item


def _guarded(operation: Json, tokens: Tokens, access: str) -> Json:
    if getattr(tokens, access) is None:
        return operation
    refusal = {"description": "The bearer token is missing or wrong", "content": _json("Error")}
    responses = {**operation["responses"], "401": refusal}
    return {**operation, "responses": responses, "security": [{access: []}]}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


_REFUSALS: Json = {
    status: {"description": description, "content": _json("Error")}
    for status, description in (
        ("400", "Malformed, or not what the model takes; names the field"),
        ("413", "Too many bytes or rows"),
        ("415", "Another content type or encoding than offered"),
        ("422", "Nested too deep, or text too long"),
        ("503", "Overloaded; see Retry-After"),
        ("504", "No answer in time"),
    )
}
