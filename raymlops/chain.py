"""A chain of entries in the store: what was decided, in order, for ever. And who is in charge, which is the same thing.

Entry N is `ROOT/ledger/0000000N.json`, created by a conditional write and chained to the one before by its hash.
Whoever takes over appends an entry with the next term. Whoever finds the number of its next entry taken has been
deposed and must read what happened. So there is no lease that could disagree with the ledger, no clock that could run
differently, and no way for an old process, on whatever machine, to write over a newer one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.store import Store

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""
_DIGITS = 8


class Deposed(RaymlopsError):
    """Another process wrote the entry that was to be written: this one is not in charge any more."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    n: int
    term: int
    at: float
    """Seconds since 1970 on the writer's clock."""
    kind: str
    payload: dict[str, Any]
    previous: str
    """SHA-256 of the bytes of the entry before."""

    def to_bytes(self) -> bytes:
        plain = json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return plain.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes JSON's escape of it

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Raises ValueError, KeyError or TypeError for what `to_bytes` did not write."""
        return cls(**json.loads(data))


class Chain:
    """The ledger below `root`. Every method does I/O and raises StoreError when the store cannot be reached."""

    def __init__(self, store: Store, root: str) -> None:
        self.store, self.root = store, root

    def path(self, n: int) -> str:
        return f"{self.root}/ledger/{n:0{_DIGITS}d}.json"

    def entries(self, after: int = 0) -> list[Entry]:
        """All entries with a number above `after`, checked. Raises IntegrityError naming the first that is not what
        was written."""
        numbers = self.numbers()
        previous = Entry.from_bytes(self.store.read(self.path(after))).sha256 if after else GENESIS
        found = []
        for expected, n in enumerate((n for n in numbers if n > after), start=after + 1):
            if n != expected:
                raise IntegrityError(f"{self.path(expected)}: is missing, but there are later entries")
            entry = self._read(n, previous)
            previous = entry.sha256
            found.append(entry)
        return found

    def _read(self, n: int, previous: str) -> Entry:
        data, path = self.store.read(self.path(n)), self.path(n)
        try:
            entry = Entry.from_bytes(data)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path}: is not a ledger entry ({type(error).__name__}: {error})") from error
        if entry.to_bytes() != data or entry.n != n:
            raise IntegrityError(f"{path}: was changed after it was written")
        if entry.previous != previous:
            raise IntegrityError(f"{path}: does not follow entry {n - 1}: one of the two was changed")
        return entry

    def append(self, entry: Entry) -> None:
        """Write the entry, whose number is the next. Raises Deposed when that number is taken."""
        if not self.store.create(self.path(entry.n), entry.to_bytes(), exclusive=True):
            raise Deposed(f"{self.root}: entry {entry.n} of the ledger was written by another process")

    def taken(self, n: int) -> bool:
        """Whether entry n exists."""
        return self.store.exists(self.path(n))

    def numbers(self) -> list[int]:
        """Numbers of the entries that exist."""
        names = self.store.list(f"{self.root}/ledger")
        return sorted(int(name[:_DIGITS]) for name in names if len(name) == _DIGITS + 5 and name[:_DIGITS].isdigit())
