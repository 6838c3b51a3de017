"""Who is told of a rollout, and who does not hear."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from raymlops.config.rollout import Notify
from raymlops.rollout import notify


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/secret":
                heard.append(json.loads(body))
            self.send_response({"/secret": 200, "/elsewhere": 302}.get(self.path, 500))
            self.send_header("Location", "/secret")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()


def test_webhooks_and_commands_hear_of_it(webhook: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    url, heard = webhook
    out = tmp_path / "$(touch injected).json"
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    config = Notify(webhooks=[f"{url}/secret"], commands=[[sys.executable, "-c", script, str(out)]])
    event = {"event": "rollback", "endpoint": "e", "numbers": float("inf")}
    assert notify.send(config, event) == []
    assert heard == [json.loads(out.read_text())] == [{"event": "rollback", "endpoint": "e", "numbers": None}]


def test_who_does_not_hear_is_named_without_secrets(webhook: tuple[str, list[dict[str, Any]]]) -> None:
    url, heard = webhook
    config = Notify(
        webhooks=[f"{url}/broken?token=s3cret", f"{url}/elsewhere", "file:///etc/passwd", "http://127.0.0.1:1/"],
        commands=[["/no/such/program"], [sys.executable, "-c", "import sys; sys.exit('why not')"], [],
                  [sys.executable, "-c", "import time; time.sleep(60)"]],
        timeout_s=1.0,
    )  # fmt: skip
    failures = notify.send(config, {})
    assert len(failures) == 8 and heard == []
    assert "s3cret" not in str(failures) and "why not" in str(failures) and "timed out" in failures[-1]
