"""How keys are given to arms: blocks, epochs and nested thresholds.

The evidence is valid because of this randomisation and nothing else, so the rules live here and cannot be passed by: a
block has one salt; inside it the share of a candidate never falls (a key only ever moves from control to a candidate);
every epoch has exact shares, there is no way to state an average; lower shares need a new block with a new salt.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raymlops.rollout.evidence.errors import EvidenceError

CONTROL = 0
"""The arm of the champion. Candidates are arms 1, 2, …"""

_UNIT_RANGE = 1 << 64


@dataclass(frozen=True)
class Epoch:
    """A stretch of time with constant shares. `counted` is False while the candidates warm up: nothing counts, in no
    arm."""

    number: int
    block: int
    salt: str
    shares: tuple[float, ...]
    """Share of each candidate, arm 1 first; control has the rest."""
    counted: bool = True

    def odds_share(self, candidate: int) -> float:
        """Share of `candidate` among the traffic of itself and control: w_v / (w_v + w_0)."""
        share = self.shares[candidate - 1]
        return share / (share + 1.0 - sum(self.shares))

    def compared(self, arm: int) -> list[int]:
        """The candidates for which an observation of this arm is evidence: control's for all that have traffic."""
        return [v for v, share in enumerate(self.shares, start=1) if share > 0.0 and arm in (CONTROL, v)]


class Stamp(NamedTuple):
    """What routing decided for one request; whatever happens to the request later belongs to this epoch and arm."""

    epoch: int
    arm: int
    unit: int
    """64-bit hash of (salt, key): the unit of randomisation. Random for a request without a key."""
    keyed: bool

    @property
    def key(self) -> int | None:
        """The key hash to report: None for a request without a key, which is its own unit."""
        return self.unit if self.keyed else None


class Assignment:
    """The epochs of one rollout.

    Candidate v owns the stretch [(v-1)/V, (v-1)/V + share) of the unit interval, so raising a share only moves keys
    from control to that candidate. A share is therefore at most 1/V, and below 1 for a single candidate: without
    control there is nothing to compare with.
    """

    def __init__(self, candidates: int = 1) -> None:
        if candidates < 1:
            raise EvidenceError(f"candidates: expected at least 1, found {candidates}")
        self.candidates = candidates
        self.epochs: list[Epoch] = []

    @property
    def current(self) -> Epoch:
        if not self.epochs:
            raise EvidenceError("no epoch is open: call open_block first")
        return self.epochs[-1]

    def open_block(self, shares: Sequence[float], *, salt: str | None = None, counted: bool = True) -> Epoch:
        """Starts a block with a fresh salt; its shares may be lower than before."""
        salt = secrets.token_hex(8) if salt is None else salt
        if any(epoch.salt == salt for epoch in self.epochs):
            raise EvidenceError(f"salt: expected a fresh salt for a block, found {salt!r}, used before in this rollout")
        block = self.epochs[-1].block + 1 if self.epochs else 0
        return self._append(Epoch(len(self.epochs), block, salt, self._checked(shares), counted))

    def open_epoch(self, shares: Sequence[float]) -> Epoch:
        """New shares inside the block. Raises EvidenceError if the share of a candidate would fall."""
        now = self.current
        new = self._checked(shares)
        for arm, (before, after) in enumerate(zip(now.shares, new, strict=True), start=1):
            if after < before:
                raise EvidenceError(
                    f"shares: candidate {arm} would fall from {before:g} to {after:g} inside block {now.block}; "
                    "keys that saw the candidate would count as control. Open a new block with a new salt instead"
                )
        return self._append(Epoch(now.number + 1, now.block, now.salt, new))

    def route(self, key: str | bytes | None) -> Stamp:
        """Assigns a request. None means that the request has no key: it is its own unit, drawn at random."""
        epoch = self.current
        unit = secrets.randbits(64) if key is None else unit_hash(epoch.salt, key)
        return Stamp(epoch.number, self.arm_of(unit, epoch.number), unit, key is not None)

    def arm_of(self, unit: int, epoch: int) -> int:
        """The arm of a unit in an epoch, 0 for control."""
        position = unit / _UNIT_RANGE * self.candidates
        candidate = min(int(position), self.candidates - 1)
        return (
            candidate + 1 if position - candidate < self.epochs[epoch].shares[candidate] * self.candidates else CONTROL
        )

    def _append(self, epoch: Epoch) -> Epoch:
        self.epochs.append(epoch)
        return epoch

    def _checked(self, shares: Sequence[float]) -> tuple[float, ...]:
        if len(shares) != self.candidates:
            raise EvidenceError(f"shares: expected {self.candidates} (one per candidate), found {len(shares)}")
        limit = 1.0 / self.candidates
        for share in shares:
            if not 0.0 <= share <= limit:
                raise EvidenceError(f"shares: expected 0 to {limit:g} per candidate, found {share:g}")
        if sum(shares) > 1.0 - 1e-6:
            raise EvidenceError(f"shares: candidates take {sum(shares):g}, nothing is left for control")
        return tuple(float(share) for share in shares)

    def to_dict(self) -> dict[str, Any]:
        rows = [[e.block, e.salt, list(e.shares), e.counted] for e in self.epochs]
        return {"candidates": self.candidates, "epochs": rows}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Assignment:
        """Reads what `to_dict` wrote, under the same checks as when it was made."""
        made = cls(data["candidates"])
        for block, salt, shares, counted in data["epochs"]:
            if made.epochs and made.epochs[-1].block == block:
                made.open_epoch(shares)
            else:
                made.open_block(shares, salt=salt, counted=counted)
        return made


def unit_hash(salt: str, key: str | bytes) -> int:
    """64-bit BLAKE2b of the key under the salt: uniform, and independent between salts."""
    raw = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, key=salt.encode()[:64]).digest(), "big")
