"""Is what a server answers the champion's prediction? Asked with a plain client, apart from the load."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.serving_lib.protocols import Protocol, Row

VARIANT = "x-raymlops-variant"
RELATIVE = 1e-4
"""float32 weights multiplied in batches of another size round differently; a wrong answer differs by far more."""


@dataclass(frozen=True)
class Checked:
    asked: int
    wrong: Sequence[str]
    """What was found and expected, for each answer that is not the champion's."""
    variants: Counter[str] = field(default_factory=Counter)
    """Answers by the variant that gave them, where the server says so."""


def check(port: int, protocol: Protocol, rows: Sequence[Row], expected: Sequence[float], rounds: int = 1) -> Checked:
    """Ask for every row `rounds` times over one connection. A candidate's answers are counted, not compared.

    Raises OSError or http.client.HTTPException when nobody answers.
    """
    wrong: list[str] = []
    variants: Counter[str] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        for row, want in [*zip(rows, expected, strict=True)] * rounds:
            connection.request("POST", protocol.path, protocol.encode(row), {"Content-Type": "application/json"})
            response = connection.getresponse()
            body, variant = response.read(), response.getheader(VARIANT)
            variants[variant or "-"] += 1
            if response.status != 200:
                wrong.append(f"status {response.status}: {body[:200]!r}")
            elif variant in (None, "champion"):
                found = protocol.decode(json.loads(body))
                if not math.isclose(found, want, rel_tol=RELATIVE):
                    wrong.append(f"found {found}, expected {want}")
    finally:
        connection.close()
    return Checked(rounds * len(rows), wrong, variants)


def wait_ready(ask: Callable[[], Checked], alive: Callable[[], bool], seconds: float) -> float:
    """Seconds until a first row is answered right. Raises RuntimeError when the server ends or stays silent."""
    start, said = time.monotonic(), "nothing"
    while time.monotonic() - start < seconds:
        if not alive():
            raise RuntimeError("the server ended before it answered")
        try:
            found = ask()
            if not found.wrong:
                return time.monotonic() - start
            said = found.wrong[0]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            said = f"{type(error).__name__}: {error}"
        time.sleep(0.2)
    raise RuntimeError(f"no right answer within {seconds:g} s; last: {said}")
