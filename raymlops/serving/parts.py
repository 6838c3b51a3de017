"""Names of the parts of the prediction log, which of them count, and when small ones are merged.

A part is `part-REPLICA-000007.parquet`; parts 5 to 7 merged are `part-REPLICA-000005-000007.parquet`. A part that lies
within another's range is *covered*: its rows are in the other, so readers leave it out. That makes merging safe at
every point of a crash: before the merged part appears the small ones count, from then on it does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

_NAME = re.compile(r"part-([A-Za-z0-9]+)-(\d{6,})(?:-(\d{6,}))?\.parquet")
_DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Batches `first` to `last` of one replica."""

    replica: str
    first: int
    last: int

    @property
    def name(self) -> str:
        last = f"-{self.last:06d}" if self.last > self.first else ""
        return f"part-{self.replica}-{self.first:06d}{last}.parquet"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """None for what is no part: temporary files, for instance."""
        found = _NAME.fullmatch(name)
        return cls(found[1], int(found[2]), int(found[3] or found[2])) if found else None


def replica_token(replica: str) -> str:
    """The letters and digits of a replica's id: a hyphen in it would make names of parts ambiguous."""
    return re.sub(r"[^A-Za-z0-9]", "", replica) or "replica"


def split_covered(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The parts of one directory that count, and those that others cover. Ranges of a replica are nested or apart."""
    by_replica: dict[str, list[Part]] = defaultdict(list)
    for name in names:
        if part := Part.parse(name):
            by_replica[part.replica].append(part)
    counting: list[str] = []
    covered: list[str] = []
    for replica in sorted(by_replica):
        reach = 0
        for part in sorted(by_replica[replica], key=lambda p: (p.first, -p.last)):
            (counting if part.last > reach else covered).append(part.name)
            reach = max(reach, part.last)
    return counting, covered


def day_of(seconds: float) -> str:
    """`date=YYYY-MM-DD` (UTC) of a time in seconds since 1970."""
    return f"date={datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def days_between(names: Iterable[str], since: datetime, until: datetime) -> list[str]:
    """Those of the directories `date=…` that can hold times in [since, until), sorted."""
    if until <= since:
        return []
    first, last = since.astimezone(UTC).date(), (until - timedelta(microseconds=1)).astimezone(UTC).date()
    wanted = []
    for name in names:
        found = _DAY.fullmatch(name)
        if found and first.isoformat() <= found[1] <= last.isoformat():
            wanted.append(name)
    return sorted(wanted)


class Tiers(Generic[T]):
    """Decides what is merged: `fan` neighbours of the same level become one of the next, so that n files become about
    fan × log(n) and every row is rewritten only log(n) times. What would grow beyond `most_bytes` is left as it is."""

    def __init__(self, fan: int = 32, most_bytes: int = 32 * 1024 * 1024) -> None:
        self.fan, self.most_bytes = fan, most_bytes
        self._entries: list[tuple[int, int, T]] = []

    def add(self, item: T, size: int, level: int = 0) -> None:
        self._entries.append((level, size, item))

    def due(self) -> list[T]:
        """The newest items to merge now, in order; empty if there are none. Answer with `merged`."""
        level = self._entries[-1][0] if self._entries else 0
        run = 0
        while run < len(self._entries) and self._entries[-1 - run][0] == level:
            run += 1
        if run < self.fan:
            return []
        if sum(size for _, size, _ in self._entries[-run:]) > self.most_bytes:
            self.forget()  # big enough; a range over what comes before and after would cover these unread
            return []
        return [item for _, _, item in self._entries[-run:]]

    def rest(self) -> list[T]:
        """Everything still small, for a last merge; empty if it is one item or too big."""
        if len(self._entries) < 2 or sum(size for _, size, _ in self._entries) > self.most_bytes:
            return []
        return [item for _, _, item in self._entries]

    def forget(self) -> None:
        """What there is stays as it is."""
        self._entries.clear()

    def merged(self, count: int, item: T, size: int) -> None:
        """`item` took the place of the newest `count` items."""
        level = self._entries[-1][0]
        del self._entries[-count:]
        self.add(item, size, level + 1)
