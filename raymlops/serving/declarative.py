"""The endpoint as a file for `serve deploy` and KubeRay's RayService."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.serving.args import EndpointArgs
from raymlops.serving.environment import DRAIN, HAPROXY, MIDDLEWARE
from raymlops.serving.exposure import is_loopback

IMPORT_PATH = "raymlops.serving.app:build"


def serve_config(config: Config) -> dict[str, Any]:
    """What Serve's schema calls a deploy configuration. Names model and policy, never versions: a deploy of the same
    file changes nothing, whatever was promoted meanwhile."""
    args = EndpointArgs.of(config)
    if config.tracking.uri is None and not args.storage.startswith("/"):
        args = args.model_copy(update={"tracking_uri": None})  # of the place where it runs
    return {
        "http_options": {"host": config.serving.host, "port": config.serving.port},
        "applications": [
            {"name": config.name, "route_prefix": "/", "import_path": IMPORT_PATH, "args": args.plain()},
        ],
    }


def write_serve_config(config: Config, path: Path) -> None:
    """Raises RaymlopsError when the file cannot be written."""
    text = _preface(config.serving.host) + yaml.safe_dump(serve_config(config), sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RaymlopsError(f"--emit: cannot write {path}: {error.strerror}") from error


def _preface(host: str) -> str:
    """Environment variables cannot stand in the file: Ray reads them when it starts."""
    lines = [
        "# An endpoint of raymlops. Deploy: serve deploy THIS_FILE, or as serveConfigV2 of a RayService.",
        "# Ray has to be started with these variables on every node, for limits that clients cannot lift:",
        *(f"#   {name}={value}" for name, value in MIDDLEWARE.items()),
        "# and, for about ten times the requests per second, with HAProxy (then http_options.host decides who can",
        "# connect; HAProxy's metrics and statistics ports, 9101 and 8404, listen on every interface):",
        *(f"#   {name}={value}" for name, value in {**HAPROXY, **DRAIN}.items()),
    ]
    if is_loopback(host):
        lines += [
            f"# {host} is reached from the same host only, in Kubernetes from the same pod. For a Service, or other",
            "# hosts, write this file with --set serving.host=0.0.0.0.",
        ]
    return "\n".join(lines) + "\n"
