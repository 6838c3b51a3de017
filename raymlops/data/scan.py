"""All blocks together: the streamed pass over a source, merged on the driver, and what its columns turned out to be."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from raymlops.data.block import BlockPass, BlockResult
from raymlops.data.checks import EXAMPLES
from raymlops.data.hashing import ContentHash
from raymlops.data.kinds import widest
from raymlops.data.profile import Profile
from raymlops.data.ray_errors import user_error
from raymlops.errors import DataError
from raymlops.features.fit import FitPartial

if TYPE_CHECKING:
    from raymlops.data.sources import OpenedSource


@dataclass
class Scan:
    """What the pass found. Merging a block takes constant memory, but for eight bytes a row when keys are unique."""

    kinds: dict[str, dict[str, tuple[str, Any, int]]] = field(default_factory=dict)
    """Column to kind to (first file, example, blocks)."""
    blocks: int = 0
    first_path: str = ""
    error: str | None = None
    rows_read: int = 0
    content: ContentHash = field(default_factory=ContentHash)
    profile: Profile | None = None
    fit: FitPartial | None = None
    pieces: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Part to staged (file, rows)."""
    excluded: int = 0
    quarantined: int = 0
    quarantine_files: set[str] = field(default_factory=set)
    violations: dict[tuple[str, str], tuple[int, list[dict[str, Any]]]] = field(default_factory=dict)
    times: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: list[np.ndarray] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    """Column to the file of the first block that has rows but not this column."""

    @property
    def rows(self) -> int:
        """Rows kept: read, inside the split's window, and not moved aside."""
        return self.content.rows

    @property
    def newest(self) -> datetime | None:
        kept = [high for part, (_, high) in self.times.items() if part != "all"]
        return max(map(datetime.fromisoformat, kept), default=None)

    def add(self, block: BlockResult) -> None:
        if block.rows:
            self._add_kinds(block)
        self.error = self.error or block.error
        self.rows_read += block.rows
        self.content = self.content.merge(block.content)
        if block.profile is not None:
            self.profile = block.profile if self.profile is None else self._merged(block.profile)
        if block.fit is not None:
            self.fit = block.fit if self.fit is None else self.fit.merge(block.fit)
        for part, piece in block.pieces.items():
            self.pieces.setdefault(part, []).append(piece)
        for key, (count, examples) in block.violations.items():
            known, shown = self.violations.get(key, (0, []))
            self.violations[key] = (known + count, (shown + examples)[:EXAMPLES])
        for part, (low, high) in block.times.items():
            known_low, known_high = self.times.get(part, (low, high))
            self.times[part] = (min(low, known_low), max(high, known_high))
        self.excluded += block.excluded
        self.quarantined += block.quarantined
        if block.quarantine_file is not None:
            self.quarantine_files.add(block.quarantine_file)
        if block.keys.size:
            self.keys.append(block.keys)

    def _add_kinds(self, block: BlockResult) -> None:
        if self.blocks:
            for name in self.kinds.keys() - block.kinds.keys():
                self.lacking.setdefault(name, block.path)
            for name in block.kinds.keys() - self.kinds.keys():
                self.lacking.setdefault(name, self.first_path)
        else:
            self.first_path = block.path
        self.blocks += 1
        for name, (kind, example) in block.kinds.items():
            first, shown, blocks = self.kinds.setdefault(name, {}).get(kind, (block.path, example, 0))
            self.kinds[name][kind] = (first, shown, blocks + 1)

    def _merged(self, profile: Profile) -> Profile:
        assert self.profile is not None
        same = self.profile.columns.keys() == profile.columns.keys()
        return self.profile.merge(profile) if same else self.profile  # `agreed_kinds` will refuse the data


def scan(source: OpenedSource, block_pass: BlockPass) -> Scan:
    """Run the pass. Raises DataError when the source cannot be read, StoreError when a piece cannot be written."""
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    found = Scan()
    try:
        results = source.dataset.map_batches(
            block_pass, batch_format="pyarrow", batch_size=source.portion, zero_copy_batch=True
        )
        results.context.enable_progress_bars = False
        results.context.raise_original_map_exception = True  # else the cause is lost between processes
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            for packed in batch.column("result").to_pylist():
                found.add(BlockResult.unpack(packed))
    except RayError as error:
        raise user_error(error, "data.source: reading failed") from error
    return found


def agreed_kinds(found: Scan) -> dict[str, str]:
    """One kind per column. Raises DataError naming the files, values and kinds that contradict each other."""
    agreed = {}
    for name, by_kind in sorted(found.kinds.items()):
        kind = "null"
        for other in by_kind:
            kind = widest(kind, other)
        if kind == "mixed":
            raise DataError(_contradiction(name, by_kind))
        agreed[name] = kind
    for name, path in found.lacking.items():
        present = next((first for first, _, _ in found.kinds[name].values() if first), "other blocks")
        raise DataError(f"data.source: column {name!r} is missing in {path or 'a block'}, but present in {present}")
    return agreed


def _contradiction(name: str, by_kind: dict[str, tuple[str, Any, int]]) -> str:
    ranked = sorted((item for item in by_kind.items() if item[0] != "null"), key=lambda item: item[1][2])
    # Of two equally frequent kinds, text is the likelier intruder: a stray word turns a whole file's column into text.
    ranked.sort(key=lambda item: (item[1][2], item[0] != "string"))
    (odd, (path, example, _)), (usual, (usual_path, _, blocks)) = ranked[0], ranked[-1]
    shown = f" (such as {example!r})" if example is not None else ""
    where = f" in {path}" if path else ""
    others = f"in {usual_path}" if blocks == 1 and usual_path else f"in {blocks} other block(s)"
    return f"data.source: column {name!r} is {odd}{where}{shown}, but {usual} {others}"
