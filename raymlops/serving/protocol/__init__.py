"""HTTP bodies to checked columns, and answers to HTTP bodies; nothing here needs Ray, torch or a server."""

from raymlops.serving.protocol.auth import Authenticator
from raymlops.serving.protocol.decoding import check_body, check_length, plain_headers
from raymlops.serving.protocol.errors import Encoded, ProtocolError, encode_json
from raymlops.serving.protocol.feedback import Label, parse_feedback
from raymlops.serving.protocol.infer import parse_infer
from raymlops.serving.protocol.invocations import parse_invocations
from raymlops.serving.protocol.metadata import describe, docs_page, health, model_metadata, server_metadata
from raymlops.serving.protocol.openapi import openapi_document
from raymlops.serving.protocol.ordering import Wanted, parse_order
from raymlops.serving.protocol.parsing import parse
from raymlops.serving.protocol.request import ParsedRequest, Stamp
from raymlops.serving.protocol.routes import ROOTS, Route, check_model, match
from raymlops.serving.protocol.rows import parse_rows
from raymlops.serving.protocol.schema import Column, ModelSchema, Rules

__all__ = [
    "ROOTS",
    "Authenticator",
    "Column",
    "Encoded",
    "Label",
    "ModelSchema",
    "ParsedRequest",
    "ProtocolError",
    "Route",
    "Rules",
    "Stamp",
    "Wanted",
    "check_body",
    "check_length",
    "check_model",
    "describe",
    "docs_page",
    "encode_json",
    "health",
    "match",
    "model_metadata",
    "openapi_document",
    "parse",
    "parse_feedback",
    "parse_infer",
    "parse_invocations",
    "parse_order",
    "parse_rows",
    "plain_headers",
    "server_metadata",
]
