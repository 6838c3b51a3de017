"""What a source holds, told without reading rows: enough to know that nothing changed since the last time.

Local files are known by their content. Hashing all of it each time would cost minutes, so a file's SHA-256 is kept
together with its path, size, modification time and inode, and trusted while these stay the same, as in git's index.
Files elsewhere are known by size and modification time, a Delta Lake table by its id and version. What a query or a
function returns can only be known by asking: those sources have no fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from raymlops.config.data import CsvSource, DataConfig, DeltaSource, ParquetSource
from raymlops.config.loading import resolve_local
from raymlops.data.files import DataFile, list_files
from raymlops.errors import DataError
from raymlops.store import Store, StoreError

SETTLED_SECONDS = 2.0
"""A file that was modified so shortly before it was hashed may change again within the same tick of its clock."""
CHUNK_BYTES = 4 * 2**20
THREADS = 4


@dataclass(frozen=True)
class Fingerprint:
    """Equal fingerprints mean equal rows."""

    parts: dict[str, str]
    """What was found by the name that a person gives it: `data/part-0.parquet` to a digest of its content."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of local files, by their absolute path."""


class Memory:
    """Hashes of local files by what `stat` says of them, kept in a small file of the store.

    One that cannot be read is started anew: hashes are only remembered to save time.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self.host = socket.gethostname()
        self.changed = False
        try:
            found = json.loads(store.read(path))
            self.known: dict[str, list[str | int]] = found if isinstance(found, dict) else {}
        except (StoreError, ValueError):
            self.known = {}

    def sha256(self, path: str) -> str:
        """Raises DataError when the file cannot be read, or changed meanwhile."""
        try:
            before = self._identity(path)
            known = self.known.get(path)
            if known is not None and known[:-1] == before:
                return str(known[-1])
            digest = _sha256(path)
            if self._identity(path) != before:
                raise DataError(f"data.source: {path} changed while it was read; run again once nobody writes to it")
        except OSError as error:
            raise DataError(f"data.source: cannot read {path}: {error.strerror or error}") from error
        if time.time() - int(before[2]) / 1e9 > SETTLED_SECONDS:
            self.known[path] = [*before, digest]
            self.changed = True
        return digest

    def save(self) -> None:
        """Forgets files that are gone."""
        if self.changed:
            self.known = {path: known for path, known in self.known.items() if Path(path).exists()}
            self.store.write(self.path, json.dumps(self.known).encode(), sync=False)
            self.changed = False

    def _identity(self, path: str) -> list[str | int]:
        found = Path(path).stat()
        return [self.host, found.st_size, found.st_mtime_ns, found.st_ino]


def fingerprint(data: DataConfig, base: Path, memory: Memory) -> Fingerprint | None:
    """None for a source that has to be read to know what it holds. Raises DataError when it does not exist."""
    source = data.source
    if isinstance(source, ParquetSource | CsvSource):
        paths = [source.path] if isinstance(source.path, str) else source.path
        listed = [(path, file) for path in paths for file in list_files(resolve_local(path, base), source.kind)]
        return _of_files(listed, base, memory)
    if isinstance(source, DeltaSource):
        from raymlops.data.sources import open_table

        table = open_table(source, base)
        return Fingerprint({source.path: f"table {table.metadata().id} version {table.version()}"})
    return None


def _of_files(listed: Sequence[tuple[str, DataFile]], base: Path, memory: Memory) -> Fingerprint:
    found: dict[str, DataFile] = {}
    for path, file in listed:
        whole = file.uri == resolve_local(path, base)
        found[path if whole else f"{path.rstrip('/')}/{file.name}"] = file
    local = sorted({file.uri for file in found.values() if "://" not in file.uri})
    with ThreadPoolExecutor(THREADS) as pool:  # hashing lets go of the interpreter's lock
        sha256 = dict(zip(local, pool.map(memory.sha256, local), strict=True))
    parts = {name: sha256.get(file.uri) or _remote(file) for name, file in sorted(found.items())}
    return Fingerprint(parts, sha256)


def _remote(file: DataFile) -> str:
    when = file.modified.timestamp() if file.modified is not None else None
    return f"{file.uri} {file.bytes} {when}"


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
