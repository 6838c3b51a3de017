"""The load: one generator for everybody in a run, wrk where it is installed and an own one elsewhere."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT

GENERATORS = ("wrk", "python")
JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Load:
    """What a closed loop of some connections saw in `seconds`; latencies in milliseconds."""

    requests: int
    """Answered with 2xx."""
    seconds: float
    errors: int
    p50: float
    p95: float
    p99: float
    generator_cpu: float
    """Seconds of CPU that the generator itself took."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def generator_share(self) -> float:
        """Share of the machine's CPU time that went into the generator."""
        return self.generator_cpu / self.seconds / len(os.sched_getaffinity(0))


def available() -> str:
    """The generator to use here."""
    return "wrk" if shutil.which("wrk") else "python"


def measure(port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float, generator: str) -> Load:
    """Drive 127.0.0.1:`port` with POST requests. Raises RuntimeError when the generator fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="raymlops-load-") as scratch:
        if generator == "wrk":
            script = Path(scratch) / "load.lua"
            script.write_text(lua(path, JSON_HEADERS, bodies))
            command = [
                *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
                *("-s", str(script), f"http://127.0.0.1:{port}"),
            ]
            given = None
        else:
            command = [sys.executable, "-m", "benchmarks.serving_lib.generator"]
            requests = [raw(path, JSON_HEADERS, body, port).decode("latin-1") for body in bodies]
            job = {"host": "127.0.0.1", "port": port, "requests": requests, "connections": connections}
            given = json.dumps({**job, "seconds": seconds})
        done = subprocess.run(command, input=given, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{generator} failed: {done.stderr[-500:]}{done.stdout[-500:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(**found, generator_cpu=cpu)


def lua(path: str, headers: Mapping[str, str], bodies: Sequence[bytes]) -> str:
    """A wrk script that sends `bodies` in turn and prints its result as one line of JSON."""
    listed = ",\n".join(f"  {json.dumps(body.decode())}" for body in bodies)
    given = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    return f"""\
local bodies = {{
{listed}
}}
local ready, turn = {{}}, 0
function init(args)
  for i, body in ipairs(bodies) do
    ready[i] = wrk.format("POST", {json.dumps(path)}, {{{given}, Host = "127.0.0.1"}}, body)
  end
end
function request()
  turn = turn % #ready + 1
  return ready[turn]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{{"requests": %d, "seconds": %.6f, "errors": %d, "p50": %.4f, "p95": %.4f, "p99": %.4f}}\\n',
    summary.requests - e.status, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


def raw(path: str, headers: Mapping[str, str], body: bytes, port: int) -> bytes:
    """One HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
