"""Tests' side of `hand.py`: orders, and steady traffic while they are carried out."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from serving_models import NAME, flag_path, json_rows

HAND = Path(__file__).with_name("hand.py")
SECONDS = 60.0
"""Longest wait for anything."""
JSON = {"content-type": "application/json"}


def eventually(what: str, check: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true value of `check`; fails the test when none comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds:g} s: {what}")


@functools.cache
def body(rows: int) -> bytes:
    """A request of so many rows."""
    return json.dumps({"rows": json_rows(rows)}).encode()


class Hand:
    """An endpoint in a process of its own, whose documents the test writes. It answers after `wait`."""

    def __init__(self, root: Path, replicas: int) -> None:
        self.root = root
        self._local = threading.local()
        self._process = subprocess.Popen(
            [sys.executable, str(HAND), str(root), str(replicas)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(root / "hand.log").open("w"),
            text=True,
        )

    def wait(self) -> None:
        self.port = int(self._read()["port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.root / "hand.log").read_text()[-3000:]
        return json.loads(line)

    def do(self, order: str, *, seconds: float = SECONDS, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": order, "with": arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert "ok" in answer, answer
        return answer["ok"]

    def follow(self, replicas: int, **document: Any) -> None:
        """Write a document and wait until as many replicas follow it."""
        order, asked = self.do("write", **document), time.time()

        def followed() -> bool:
            known = [r for r in self.do("seen")["replicas"].values() if r["at"] > asked and r["known"] == order]
            return len(known) >= replicas

        eventually("replicas follow the document", followed)

    def arms(self, rollout: str | None = None) -> dict[str, Any]:
        return dict(self.do("seen", rollout=rollout)["arms"])

    def predict(self, key: str | None = None, rows: int = 1, **headers: str) -> requests.Response:
        plain = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if key is not None:
            plain["x-raymlops-key"] = key
        url = f"{self.url}/v2/models/{NAME}/rows"
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session.post(url, data=body(rows), headers=plain, timeout=20)

    @contextmanager
    def misbehaving(self, behaviour: str) -> Iterator[None]:
        flag = flag_path(self.root, behaviour)
        flag.touch()
        try:
            yield
        finally:
            flag.unlink(missing_ok=True)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SECONDS)


@dataclass
class Traffic:
    """Requests from several threads, each with its own keys, until the block ends."""

    hand: Hand
    threads: int = 4
    pause_s: float = 0.01
    statuses: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    lost: int = 0
    """Connections that ended without an answer."""
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Traffic:
        self._workers = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.threads)]
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for worker in self._workers:
            worker.join(SECONDS)

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def more(self, requests_: int) -> None:
        """Waits until so many more requests were answered."""
        before = self.answered
        eventually(f"{requests_} more answers", lambda: self.answered >= before + requests_)

    def _run(self, thread: int) -> None:
        session, number = requests.Session(), 0
        url = f"{self.hand.url}/v2/models/{NAME}/rows"
        while not self._end.wait(self.pause_s):
            number += 1
            headers = {**JSON, "x-raymlops-key": f"{thread}-{number}"}
            began = time.perf_counter()
            try:
                reply = session.post(url, data=body(1), headers=headers, timeout=20)
            except requests.RequestException:
                with self._lock:
                    self.lost += 1
                continue
            with self._lock:
                self.statuses[reply.status_code] += 1
                self.variants[reply.headers.get("x-raymlops-variant", "none")] += 1
                self.slowest = max(self.slowest, time.perf_counter() - began)
