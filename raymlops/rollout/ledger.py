"""The ledger of an endpoint: a `Chain` of entries below `rollouts/ENDPOINT/`, and what is kept beside it per term.

A controller takes over by appending a `term` entry with the next term. State and routing document are kept per term
(`states/TERM.json`, `documents/TERM.json`): an old controller can only overwrite its own.
"""

from __future__ import annotations

from raymlops.chain import Chain, Entry
from raymlops.errors import IntegrityError
from raymlops.serving.document import RoutingDocument
from raymlops.store import Store


class Ledger(Chain):
    """The files of one endpoint. Every method does I/O and raises StoreError when the store cannot be reached."""

    def __init__(self, store: Store, endpoint: str) -> None:
        super().__init__(store, f"rollouts/{endpoint}")

    def save_state(self, term: int, data: bytes) -> None:
        self.store.write(f"{self.root}/states/{term}.json", data)

    def newest_state(self) -> tuple[int, bytes] | None:
        """Term and content of the state of the newest term that has one."""
        return self._newest("states")

    def save_document(self, document: RoutingDocument) -> None:
        self.store.write(f"{self.root}/documents/{document.term}.json", document.to_json().encode())

    def newest_document(self) -> RoutingDocument | None:
        found = self._newest("documents")
        return None if found is None else RoutingDocument.from_json(found[1])

    def _newest(self, kind: str) -> tuple[int, bytes] | None:
        names = self.store.list(f"{self.root}/{kind}")
        terms = [int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit()]
        if not terms:
            return None
        return max(terms), self.store.read(f"{self.root}/{kind}/{max(terms)}.json")

    def forget_terms(self, before: int) -> None:
        """Remove states and documents of terms below `before`; the ledger stays."""
        for kind in ("states", "documents"):
            for name in self.store.list(f"{self.root}/{kind}"):
                term = name.removesuffix(".json")
                if term.isdigit() and int(term) < before:
                    self.store.delete_file(f"{self.root}/{kind}/{name}")


def persisted_document(store: Store, endpoint: str) -> RoutingDocument | None:
    """The last document that a controller stored: what a starting replica follows when the controller is away."""
    return Ledger(store, endpoint).newest_document()


def verify(store: Store, endpoint: str) -> list[Entry]:
    """All entries, if each is as it was written, terms never fall, and none is missing. Raises IntegrityError."""
    entries = Ledger(store, endpoint).entries()
    term = 0
    for entry in entries:
        if entry.term < term or (entry.kind == "term" and entry.term != term + 1):
            raise IntegrityError(f"entry {entry.n} of {endpoint!r} has term {entry.term} after term {term}")
        if entry.kind != "term" and entry.term != term:
            raise IntegrityError(f"entry {entry.n} of {endpoint!r} has term {entry.term}, but {term} is in charge")
        term = entry.term
    return entries
