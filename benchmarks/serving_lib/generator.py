"""A closed-loop HTTP load generator for machines without wrk: every connection sends its next request when the answer
to the last one is complete. Run as a process of its own: `python generator.py` reads a JSON job from standard input.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any


def length(data: bytes) -> int | None:
    """Bytes of the first response in `data`, None while it is incomplete. Bodies have a length or are chunked."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    headers = data[:head].lower()
    at = headers.find(b"\r\ncontent-length:")
    if at >= 0:
        end = headers.find(b"\r\n", at + 2)
        size = head + 4 + int(headers[at + 17 : end if end >= 0 else len(headers)])
        return size if len(data) >= size else None
    if b"\r\ntransfer-encoding: chunked" in headers:
        return len(data) if data.endswith(b"\r\n0\r\n\r\n") else None
    return head + 4


def succeeded(data: bytes) -> bool:
    return data[9:10] == b"2"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; `ordered` is sorted and not empty."""
    return ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)]


def drive(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Send `requests` in turn over `connections` connections for `seconds`; latencies in milliseconds."""
    poll, peers = select.epoll(), {}
    sent: dict[int, float] = {}
    received: dict[int, bytes] = {}
    latencies: list[float] = []
    errors = turn = 0

    def connect() -> int:
        peer = socket.create_connection((host, port), timeout=5.0)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = peer.fileno()
        peers[number], received[number] = peer, b""
        poll.register(number, select.EPOLLIN)
        return number

    def send(number: int) -> None:
        nonlocal turn
        sent[number] = time.perf_counter()
        peers[number].sendall(requests[turn % len(requests)])
        turn += 1

    start = time.perf_counter()
    for _ in range(connections):
        send(connect())
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for number, _ in poll.poll(end - now):
            part = peers[number].recv(65_536)
            data = received[number] + part
            size = length(data)
            if size is None and part:
                received[number] = data
                continue
            latencies.append((time.perf_counter() - sent[number]) * 1000)
            errors += size is None or not succeeded(data)
            received[number] = b""
            if not part or b"\r\nconnection: close" in data[:512].lower():
                poll.unregister(number)
                peers.pop(number).close()
                number = connect()
            send(number)
    took = time.perf_counter() - start
    latencies.sort()
    quantiles = {f"p{int(q * 100)}": percentile(latencies, q) if latencies else None for q in (0.5, 0.95, 0.99)}
    return {"requests": len(latencies) - errors, "seconds": took, "errors": errors, **quantiles}


if __name__ == "__main__":
    job = json.load(sys.stdin)
    job["requests"] = [request.encode("latin-1") for request in job["requests"]]
    print(json.dumps(drive(**job)))
