"""One start of a peer's server, measured."""

from __future__ import annotations

import http.client
import socket
import tempfile
from pathlib import Path

from benchmarks.serving_lib.checking import check, wait_ready
from benchmarks.serving_lib.environments import Environment
from benchmarks.serving_lib.peers import Peer, common
from benchmarks.serving_lib.process import READY_SECONDS, Server
from benchmarks.serving_lib.recorder import Recorder

FAILURES = (RuntimeError, OSError, http.client.HTTPException, ValueError, KeyError)
"""What a server that does not work here makes of a measurement."""


def free_port(start: int = 18_500, end: int = 18_600) -> int:
    """The first port of loopback with two free ones after it (some peers want three)."""
    for port in range(start, end, 5):
        try:
            for offset in range(3):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port + offset))
            return port
        except OSError:
            continue
    raise RuntimeError(f"no free ports between {start} and {end}")


def measure_peer(peer: Peer, environment: Environment, recorder: Recorder) -> None:
    """Start the peer, measure it, stop it. A failure is kept as the reason why the peer has no numbers."""
    models, port = recorder.plan.models, free_port()
    with tempfile.TemporaryDirectory(prefix=f"raymlops-{peer.name}-") as scratch:
        start = peer.start(environment, models, port, Path(scratch))
        log = Path(scratch) / "output.log"
        with Server(start.command, {**common(models), **start.environment}, Path(scratch), log) as server:
            try:
                wait_ready(
                    lambda: check(port, peer.protocol, models.rows[:1], models.expected[:1]),
                    lambda: server.alive,
                    READY_SECONDS,
                )
                recorder.measure(peer.title, port, peer.protocol, server.memory)
            except FAILURES as error:
                recorder.missing[peer.title] = " ".join(f"{error} {server.tail(3)}".split())
