"""Checks of a server against an OpenAPI document with schemathesis: in process (ASGI) or over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import schemathesis
import schemathesis.openapi
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
OPEN_INFERENCE = Path(__file__).parent / "data" / "open_inference_rest.yaml"
REFUSALS = {"413": "too large", "415": "content type", "422": "beyond a limit"}


def open_inference(model: str, version: str) -> dict[str, Any]:
    """The public document of the Open Inference Protocol for one model that is served.

    It writes path parameters as `${NAME}`, where OpenAPI has `{NAME}`; they get the only value that exists. Refusals by
    size are no part of the document, but of HTTP.
    """
    text = OPEN_INFERENCE.read_text(encoding="utf-8").replace("${", "{")
    document: dict[str, Any] = yaml.safe_load(text)
    values = {"MODEL_NAME": model, "MODEL_VERSION": version}
    for path in document["paths"].values():
        for parameter in path.get("parameters", []):
            parameter["schema"]["enum"] = [values[parameter["name"]]]
        if "post" in path:
            path["post"]["responses"] |= {status: {"description": why} for status, why in REFUSALS.items()}
    return document


def check_conformance(
    document: dict[str, Any],
    *,
    base_url: str | None = None,
    app: Any = None,
    headers: dict[str, str] | None = None,
    examples: int = 25,
) -> int:
    """Calls every operation `examples` times with generated requests and validates each answer; returns the number of
    operations. Raises schemathesis' failures, with a request that shows the fault.

    Give `base_url` of a live server, or an ASGI `app`.
    """
    load_all_checks()
    document = json.loads(json.dumps(document))
    schema = schemathesis.openapi.from_dict(document)
    if app is not None:
        schema.app = app
        schema.location = "/openapi.json"
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        count += 1

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def every_answer_is_described(case: Any) -> None:
            call = {"base_url": base_url} if base_url is not None else {}
            case.call_and_validate(checks=CHECKS, headers=headers, **call)

        every_answer_is_described()
    return count
