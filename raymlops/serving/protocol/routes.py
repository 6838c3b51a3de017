"""Method and path → operation. A dict and a split: this runs for every request."""

from __future__ import annotations

from typing import NamedTuple

from raymlops.serving.protocol.errors import ProtocolError, shown
from raymlops.serving.protocol.schema import ModelSchema


class Route(NamedTuple):
    """`model` and `version` as the path names them; `access` is the token that the operation wants (None: open);
    `family` says how errors look (`v2` or `mlflow`)."""

    operation: str
    method: str
    model: str | None = None
    version: str | None = None
    access: str | None = None
    family: str = "v2"


FIXED = {
    "/v2": Route("server", "GET"),
    "/v2/health/live": Route("live", "GET"),
    "/v2/health/ready": Route("ready", "GET"),
    "/invocations": Route("invocations", "POST", access="inference", family="mlflow"),
    "/ping": Route("ping", "GET", family="mlflow"),
    "/health": Route("ping", "GET", family="mlflow"),
    "/version": Route("version", "GET", family="mlflow"),
    "/openapi.json": Route("openapi", "GET", access="inference"),
    "/docs": Route("docs", "GET"),
}
ROOTS = frozenset(path.split("/")[1] for path in FIXED)
"""First parts of all paths."""
OF_MODEL = {
    "": ("model", "GET", "inference"),
    "ready": ("model_ready", "GET", None),
    "infer": ("infer", "POST", "inference"),
    "rows": ("rows", "POST", "inference"),
    "feedback": ("feedback", "POST", "feedback"),
    "retraining": ("retraining", "POST", "admin"),
}
"""Below /v2/models/NAME and, apart from the last two, /v2/models/NAME/versions/VERSION."""
OF_NO_VERSION = frozenset({"feedback", "retraining"})


def match(method: str, path: str) -> Route:
    """The operation for a decoded path; HEAD is answered like GET, a slash at the end is ignored.

    Raises ProtocolError 404 for a path that nothing answers, 405 (with Allow) for another method.
    """
    route = FIXED.get(path) or _of_model(path)
    if route is None and path.endswith("/"):
        route = FIXED.get(path[:-1]) or _of_model(path[:-1])
    if route is None:
        raise ProtocolError(404, f"path: found {shown(path)}, expected one of those that /docs lists")
    if method != route.method and not (method == "HEAD" and route.method == "GET"):
        allowed = "GET, HEAD" if route.method == "GET" else route.method
        error = ProtocolError(405, f"method: found {shown(method)}, expected {allowed}", headers={"allow": allowed})
        raise error
    return route


def _of_model(path: str) -> Route | None:
    parts = path.split("/", 7)
    if len(parts) < 4 or parts[1] != "v2" or parts[2] != "models" or not parts[3]:
        return None
    name, rest = parts[3], parts[4:]
    version = None
    if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
        version, rest = rest[1], rest[2:]
    if len(rest) > 1 or rest == [""]:
        return None
    found = OF_MODEL.get(rest[0] if rest else "")
    if found is None or (found[0] in OF_NO_VERSION and version is not None):
        return None
    return Route(found[0], found[1], name, version, found[2])


def check_model(route: Route, schema: ModelSchema) -> None:
    """Raises ProtocolError 404 when the path names a model or a version that this endpoint does not serve."""
    if route.model is None:
        return
    if route.model != schema.name:
        raise ProtocolError(404, f"model: found {shown(route.model)}, this endpoint serves {schema.name!r}", "model")
    if route.version is not None and route.version not in schema.versions:
        served = ", ".join(schema.versions)
        raise ProtocolError(
            404, f"version: found {shown(route.version)}, {schema.name!r} is served in version {served}", "version"
        )
