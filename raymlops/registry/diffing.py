"""Two recorded runs, compared from what MLflow keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymlops.registry.circumstances import recorded_circumstances
from raymlops.registry.comparison import Row, differences, flat, profile_rows, side_by_side
from raymlops.registry.record import NotRecorded, RunRecord


@dataclass(frozen=True)
class RunDiff:
    """Sections `config`, `data`, `environment` and `metrics`. `notes` say what a run has not recorded."""

    left: str
    right: str
    sections: dict[str, list[Row]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        sections = {name: [row.to_dict() for row in rows] for name, rows in self.sections.items()}
        return {"left": self.left, "right": self.right, **sections, "notes": self.notes}


def diff_runs(left: RunRecord, right: RunRecord, *, everything: bool = False) -> RunDiff:
    """What differs, or all there is with `everything`. Raises IntegrityError for a record that was changed."""
    notes: list[str] = []

    def of(read: Callable[[RunRecord], dict[str, Any]]) -> list[Row]:
        found = []
        for record in (left, right):
            try:
                found.append(read(record))
            except NotRecorded as error:
                notes.append(str(error))
                found.append({})
        return side_by_side(*found)

    sections = {
        "config": of(lambda record: flat(record.config)),
        "data": of(_data) + _profiles(left, right, notes),
        "environment": of(recorded_circumstances),
        "metrics": of(_results) + of(_search),
    }
    if not everything:
        sections = {name: differences(rows) for name, rows in sections.items()}
    return RunDiff(left.run_id, right.run_id, sections, list(dict.fromkeys(notes)))


def _data(record: RunRecord) -> dict[str, Any]:
    source = {f"source {name}": value for name, value in record.source.items() if name != "files"}
    return {"snapshot": record.snapshot, **source, **_prefixed(record, "rows_", "rows ")}


def _profiles(left: RunRecord, right: RunRecord, notes: list[str]) -> list[Row]:
    try:
        # Quantiles are estimates that come out differently each time: equal rows have no two profiles.
        same = left.manifest["identity"]["content"] == right.manifest["identity"]["content"]
        return profile_rows(left.profile, left.profile if same else right.profile)
    except NotRecorded as error:
        notes.append(str(error))
        return []


def _results(record: RunRecord) -> dict[str, Any]:
    found = {name: record.tags.get(name) for name in ("verdict", "raymlops.model_version", "raymlops.weights_sha256")}
    facts = {name.removeprefix("raymlops."): value for name, value in found.items()}
    return {**facts, **_prefixed(record, "holdout_", "holdout ")}


def _search(record: RunRecord) -> dict[str, Any]:
    winner = record.winner
    facts = {"trial": winner.trial, "epoch": winner.epoch, f"validation {winner.metric}": winner.value}
    return {f"winner {name}": value for name, value in {**facts, **winner.values}.items()}


def _prefixed(record: RunRecord, prefix: str, shown: str) -> dict[str, Any]:
    return {shown + k.removeprefix(prefix): v for k, v in sorted(record.metrics.items()) if k.startswith(prefix)}
