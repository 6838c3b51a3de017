"""One process per job: numbered claims, each created only if nobody did, and a look whether the last one lives.

A claim is given back when its process is done with the job. One whose process died is taken over, at once on the same
machine, after a minute without a sign of life on another. On a store without conditional writes two
processes that claim in the same instant may both believe that they have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raymlops.errors import RaymlopsError
from raymlops.owner import alive, beating, same, this_process
from raymlops.store import Store

_DIGITS = 8
KEPT = 4
"""Claims that are left for people to look at."""


class Held(RaymlopsError):
    """Another process works on the job, or took it over."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a job."""

    store: Store
    root: str
    number: int

    def check(self) -> None:
        """Raises Held when another process has taken the job over, having seen no sign of life of this one."""
        last = _last(self.store, self.root)
        if last is not None and last[0] > self.number:
            raise Held(f"{_described(last[1])} has taken this job over; this process stops")


@contextmanager
def hold(store: Store, root: str, what: str) -> Iterator[Claim]:
    """The claim on the job below `root` for the duration of the block. Raises Held when another process has it."""
    claim = _take(store, root, what)
    try:
        with beating(store, root):
            yield claim
    finally:
        data = json.dumps({**this_process(), "released": datetime.now(UTC).isoformat()})
        last = _last(store, root)
        if last is not None and last[0] == claim.number:
            store.write(_path(root, claim.number), data.encode(), sync=False)


def held(store: Store, root: str) -> bool:
    """Whether a living process has the claim on the job below `root`."""
    last = _last(store, root)
    return last is not None and "released" not in last[1] and alive(store, root, last[1])


def _take(store: Store, root: str, what: str) -> Claim:
    me = this_process()
    while True:
        last = _last(store, root)
        if last is not None and "released" not in last[1] and alive(store, root, last[1]):
            raise Held(f"{what}: {_described(last[1])} is working on it; wait for it, or end it")
        number = 1 if last is None else last[0] + 1
        if store.create(_path(root, number), json.dumps(me).encode()):
            for old in _numbers(store, root):
                if old <= number - KEPT:
                    store.delete_file(_path(root, old))
            return Claim(store, root, number)


def _described(owner: dict[str, Any]) -> str:
    since = datetime.fromtimestamp(owner["wall"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = "this process itself" if same(owner, this_process()) else f"process {owner['pid']} on {owner['host']}"
    return f"{who}, since {since},"


def _last(store: Store, root: str) -> tuple[int, dict[str, Any]] | None:
    numbers = _numbers(store, root)
    if not numbers:
        return None
    try:
        return numbers[-1], json.loads(store.read(_path(root, numbers[-1])))
    except ValueError:  # claims are synced to the disk, giving one back is not: half of that is what a power cut leaves
        return numbers[-1], {**this_process(), "released": "by a power cut"}


def _numbers(store: Store, root: str) -> list[int]:
    names = store.list(f"{root}/claims")
    return sorted(int(name[:_DIGITS]) for name in names if len(name) == _DIGITS + 5 and name[:_DIGITS].isdigit())


def _path(root: str, number: int) -> str:
    return f"{root}/claims/{number:0{_DIGITS}d}.json"
