"""Where a prediction came from: replica, variant, version, run, snapshot, code; and what became of it."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raymlops.errors import RaymlopsError
from raymlops.monitoring.label_shape import INPUT, OUTPUT
from raymlops.monitoring.labelled import HEAD, labelled_files
from raymlops.monitoring.replay import find_prediction
from raymlops.serving.prediction_reader import read_part
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.backend import Tracking
    from raymlops.registry.versions import VersionRef


def trace(store: Store, tracking: Tracking, endpoint: str, prediction_id: str) -> dict[str, Any]:
    """Sections `prediction`, `label`, `version`, `run`, `snapshot` and `code`, each plain values or None where nothing
    is known; `notes` says why. Raises RaymlopsError when the prediction is not in the log."""
    from raymlops.registry.ancestry import describe_version

    rows = find_prediction(store, endpoint, prediction_id)
    given = rows.filter(pc.not_equal(rows.column("status"), "shadow"))
    rows = given if given.num_rows else rows
    first = rows.slice(0, 1).to_pylist()[0]
    notes: list[str] = []
    found: dict[str, Any] = {
        "prediction": {
            "prediction_id": prediction_id,
            "endpoint": endpoint,
            "time": first["time"].isoformat(),
            "replica": first["replica"],
            "variant": first["variant"],
            "version": first["version"],
            "weight": first["weight"],
            "status": first["status"],
            "latency_s": first["latency"],
            "key_hash": first["key_hash"],
            "rows": rows.num_rows,
            "inputs": _values(rows, INPUT),
            "outputs": _values(rows, OUTPUT),
        },
        "label": None,
        "version": None,
        "run": None,
        "snapshot": None,
        "code": None,
        "notes": notes,
    }
    version = _version(tracking, endpoint, first["version"], notes)
    if version is None:
        return found
    found["version"] = describe_version(version)
    found["label"] = _label(store, endpoint, prediction_id, first["time"], _target(version, notes))
    found["run"], found["code"] = _run(tracking, version.run_id, notes)
    found["snapshot"] = _snapshot(store, version.tags.get("snapshot"), notes)
    return found


def _values(rows: pa.Table, prefix: str) -> dict[str, list[Any]]:
    return {n.removeprefix(prefix): rows.column(n).to_pylist() for n in rows.column_names if n.startswith(prefix)}


def _version(tracking: Tracking, endpoint: str, version: str, notes: list[str]) -> VersionRef | None:
    from raymlops.registry.versions import find_version

    try:
        return find_version(tracking, f"{endpoint}/{version}")
    except RaymlopsError as error:
        notes.append(str(error))
        return None


def _target(version: VersionRef, notes: list[str]) -> str | None:
    from raymlops.registry.package import CONFIG

    try:
        with tempfile.TemporaryDirectory(prefix="raymlops-trace-") as scratch:
            config = json.loads((version.fetch(Path(scratch)) / CONFIG).read_bytes())
            return str(config["target"])
    except (RaymlopsError, OSError, ValueError, KeyError) as error:
        notes.append(f"{version.uri}: the package cannot be read: {error}")
        return None


def _label(
    store: Store, endpoint: str, prediction_id: str, time: datetime, target: str | None
) -> list[dict[str, Any]] | None:
    """The joined labels of the prediction's rows."""
    if target is None:
        return None
    start = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for path in labelled_files(store, endpoint, start, start + timedelta(days=1)):
        table = read_part(store, path, [*HEAD.names, target])
        table = table.filter(pc.equal(table.column("prediction_id"), prediction_id))
        if table.num_rows:
            return [
                {
                    "row": row["row"],
                    "label": row[target],
                    "labelled_at": row["labelled_at"].isoformat(),
                    "received": row["received"].isoformat(),
                    "delay_s": (row["labelled_at"] - row["time"]).total_seconds(),
                }
                for row in table.sort_by("row").to_pylist()
            ]
    return None


def _run(
    tracking: Tracking, run_id: str | None, notes: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    from raymlops.registry.record import RunRecord, describe_code, describe_environment, describe_run

    if run_id is None:
        notes.append("the version names no run")
        return None, None
    try:
        run = RunRecord.of(tracking, run_id).run
    except RaymlopsError as error:
        notes.append(str(error))
        return None, None
    return describe_run(run), describe_code(run) | describe_environment(run)


def _snapshot(store: Store, digest: str | None, notes: list[str]) -> dict[str, Any] | None:
    from raymlops.data.snapshot import Snapshot
    from raymlops.registry.record import describe_snapshot

    if not digest:
        notes.append("the version names no snapshot")
        return None
    try:
        manifest = Snapshot.open(store, digest).manifest
    except RaymlopsError as error:
        notes.append(str(error))
        return {"hash": digest}
    source = {name: value for name, value in manifest["source"].items() if name != "files"}
    return describe_snapshot(digest, manifest) | {"source": source}
