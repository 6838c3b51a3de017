"""Tells people and programs what happened to a rollout. Blocking and bounded: for threads."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from raymlops.config.rollout import Notify
from raymlops.registry.values import finite

_MAX_OUTPUT = 500


def send(config: Notify, event: Mapping[str, Any]) -> list[str]:
    """POST the event as JSON to every webhook and give it to every command on standard input; each has `timeout_s`.

    Returns what failed, one line each. Events carry `rollout` and `entry`, by which a receiver knows one that comes
    twice.
    """
    body = json.dumps(finite(event), default=str).encode()
    failures = [failure for url in config.webhooks if (failure := _post(url, body, config.timeout_s))]
    return failures + [failure for command in config.commands if (failure := _run(command, body, config.timeout_s))]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook is where the configuration says, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, body: bytes, timeout_s: float) -> str | None:
    where = urlsplit(url)
    shown = f"webhook at {where.hostname}"  # paths and queries of webhooks are often secrets
    if where.scheme not in ("http", "https"):
        return f"{shown}: expected an http or https URL, found scheme {where.scheme!r}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s):
            return None
    except (OSError, ValueError) as error:
        return f"{shown}: {error}"


def _run(command: list[str], body: bytes, timeout_s: float) -> str | None:
    if not command:
        return "command: expected a program, found nothing"
    try:
        done = subprocess.run(command, input=body, capture_output=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"command {command[0]}: {error}"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:_MAX_OUTPUT]
        return f"command {command[0]}: exit code {done.returncode} {said}"
    return None
