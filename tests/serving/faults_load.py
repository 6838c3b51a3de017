"""Steady HTTP load with a record of every request: who answered, whether it is what that version answers, and when."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from faults_wait import eventually

LOST = 0
"""Status of a connection that ended without an answer."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times in seconds of the monotonic clock."""

    began: float
    ended: float
    status: int
    version: str
    variant: str
    prediction_id: str
    right: bool
    """Whether the numbers are those of the version that the answer names."""
    said: str = ""
    """The body of what was no answer."""

    @property
    def fine(self) -> bool:
        return self.status == 200 and self.right


class Load:
    """Threads that ask one row after the other, each request with a key of its own, until `stop`.

    `expected` has for each version its answers to `rows`, in their order.
    """

    def __init__(
        self,
        port: int,
        endpoint: str,
        rows: list[dict[str, Any]],
        expected: Mapping[str, list[float]],
        threads: int = 4,
        pause_s: float = 0.005,
    ) -> None:
        self._port, self._path = port, f"/v2/models/{endpoint}/rows"
        self._bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
        self._expected, self.threads, self._pause_s = expected, threads, pause_s
        self.records: list[Record] = []
        self._end = threading.Event()
        self._workers = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        self._end.set()
        for worker in self._workers:
            worker.join(30)

    def mark(self) -> int:
        return len(self.records)

    def since(self, mark: int) -> list[Record]:
        return self.records[mark:]

    def more(self, requests: int) -> None:
        """Waits for so many more answers."""
        wanted = self.mark() + requests
        eventually(f"{requests} more answers", lambda: self.mark() >= wanted)

    def _run(self, thread: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        number = 0
        while not self._end.wait(self._pause_s):
            number += 1
            row = number % len(self._bodies)
            headers = {"content-type": "application/json", "x-raymlops-key": f"{thread}-{number}"}
            began = time.monotonic()
            try:
                connection.request("POST", self._path, self._bodies[row], headers)
                reply = connection.getresponse()
                body = reply.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.records.append(Record(began, time.monotonic(), LOST, "", "", "", False, repr(error)))
                continue
            self.records.append(self._record(began, row, reply, body))
        connection.close()

    def _record(self, began: float, row: int, reply: http.client.HTTPResponse, body: bytes) -> Record:
        version = reply.headers.get("x-raymlops-version", "")
        right, said = False, ""
        if reply.status == 200:
            found = float(json.loads(body)["rows"][0]["prediction"])
            right = version in self._expected and math.isclose(found, self._expected[version][row], rel_tol=1e-4)
        else:
            said = body[:300].decode(errors="replace")
        return Record(
            began,
            time.monotonic(),
            reply.status,
            version,
            reply.headers.get("x-raymlops-variant", ""),
            reply.headers.get("x-raymlops-prediction-id", ""),
            right,
            said,
        )


@contextmanager
def steady(load: Load, excused_at: list[float] | None = None) -> Iterator[None]:
    """No request that began in the block failed or was answered wrongly; except, of those under way at the moments
    in `excused_at`, at most one per thread and moment."""
    mark = load.mark()
    yield
    load.more(50)
    bad = [record for record in load.since(mark) if not record.fine]
    moments = excused_at or []
    excused = [record for record in bad if any(record.began <= at <= record.ended for at in moments)]
    assert len(excused) <= load.threads * len(moments)
    others = [record for record in bad if record not in excused]
    print(f"{load.mark() - mark} requests, {len(excused)} lost with a replica, {len(others)} failed")
    assert not others, f"{len(others)} of {load.mark() - mark} requests failed: {others[:5]}"
