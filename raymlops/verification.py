"""What became of a claim about stored bytes when it was looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["verified", "differs", "not checked"]
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Check:
    """One claim. `detail` says what was found instead, or why nothing could be looked at."""

    what: str
    status: Status
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verified(what: str, detail: str = "") -> Check:
    return Check(what, "verified", detail)


def differs(what: str, detail: str) -> Check:
    return Check(what, "differs", detail)


def not_checked(what: str, why: str) -> Check:
    return Check(what, "not checked", why)


def same_hash(what: str, found: str | None, expected: str | None, where: str = "") -> Check:
    """Compares two hashes; one that was not recorded cannot be compared."""
    if not expected:
        return not_checked(what, "no hash was recorded")
    if found == expected:
        return verified(what)
    place = f" in {where}" if where else ""
    return differs(what, f"hash {found[:12] if found else 'nothing'} found{place}, {expected[:12]} expected")


def hash_file(uri: str) -> str:
    """SHA-256 of a file at a local path or URI, read in pieces. Raises OSError."""
    from raymlops.store import filesystem_of

    filesystem, path = filesystem_of(uri)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def any_differs(checks: Iterable[Check]) -> bool:
    return any(check.status == "differs" for check in checks)
