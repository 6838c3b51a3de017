"""Model packages in the store, where replicas find them without a registry: `packages/SHA256/`, named by content.

Beside each lies `packages/SHA256.check.json`: a few raw rows and what the registered package predicts for them. Whoever
loads the package must get the same numbers before it answers anybody.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.errors import IntegrityError, RaymlopsError, Refused
from raymlops.serving.document import ModelRef
from raymlops.serving.protocol.schema import ModelSchema

if TYPE_CHECKING:
    from raymlops.registry.backend import Tracking
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.versions import VersionRef
    from raymlops.store import Store

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-5, 1e-6
"""Matrix products round differently from machine to machine; nothing else may differ."""


@dataclass(frozen=True)
class Recorded:
    """Raw rows of the registered version's input example, and its predictions, both by column."""

    columns: dict[str, list[Any]]
    predictions: dict[str, list[Any]]


def stage(tracking: Tracking, store: Store, reference: str) -> ModelRef:
    """Copy a registered version (`NAME`, `NAME@ALIAS`, `NAME/VERSION`) into the store; what is there stays.

    Raises RaymlopsError when the registry or the store cannot be reached, IntegrityError when the package is not the
    one that was registered.
    """
    from raymlops.registry.package import MANIFEST, open_package, read_files
    from raymlops.registry.versions import find_version

    version = find_version(tracking, reference)
    ref = ModelRef(version.name, version.version, version.package_sha256)
    if store.exists(f"{ref.path}/{MANIFEST}") and store.exists(_check_path(ref)):
        return ref
    with tempfile.TemporaryDirectory(prefix="raymlops-stage-") as scratch:
        files = read_files(version.fetch(Path(scratch)))
        package = open_package(files, version.uri, sha256=ref.sha256)
        recorded = _record(version, package)
    store.write(_check_path(ref), json.dumps(asdict(recorded), allow_nan=False).encode())
    for path, data in files.items():
        if path != MANIFEST:
            store.write(f"{ref.path}/{path}", data, sync=False)
    store.write(f"{ref.path}/{MANIFEST}", files[MANIFEST])  # last: it vouches for the rest
    return ref


def read(store: Store, ref: ModelRef) -> dict[str, bytes]:
    """Every file of a staged package, checked.

    Raises StoreError when one is missing, IntegrityError when one differs.
    """
    from raymlops.registry.package import MANIFEST, verify

    manifest = store.read(f"{ref.path}/{MANIFEST}")
    files = {path: store.read(f"{ref.path}/{path}") for path in _listed(manifest, ref)}
    files[MANIFEST] = manifest
    verify(files, ref.path, ref.sha256)
    return files


def load(store: Store, ref: ModelRef, device: str = "cpu") -> ModelPackage:
    """The model of a staged package. Raises as `read`."""
    from raymlops.registry.package import open_package

    return open_package(read(store, ref), ref.path, sha256=ref.sha256, device=device)


def size(store: Store, ref: ModelRef) -> int:
    """Bytes of the package's files."""
    from raymlops.registry.package import MANIFEST

    return sum(entry["bytes"] for entry in _listed(store.read(f"{ref.path}/{MANIFEST}"), ref).values())


def schema(store: Store, ref: ModelRef) -> ModelSchema:
    """What a staged version takes and answers. Raises StoreError."""
    from raymlops.features.state import FeatureState
    from raymlops.registry.package import CONFIG, FEATURES, PackageConfig

    config = PackageConfig.model_validate_json(store.read(f"{ref.path}/{CONFIG}"))
    state = FeatureState.from_json(store.read(f"{ref.path}/{FEATURES}").decode())
    return ModelSchema.of_parts(config, state, ref.name, [ref.version])


def changes(store: Store, champion: ModelRef, candidate: ModelRef) -> list[str]:
    """Why requests as they are now would not do for the candidate; empty when they do.

    Raises Refused when its answers are of another form: whoever asks may not find what was asked for.
    """
    ours, theirs = schema(store, champion), schema(store, candidate)
    if ours.outputs != theirs.outputs:
        raise Refused(
            f"version {candidate.version} answers with {', '.join(theirs.outputs)}, and the champion, version "
            f"{champion.version}, with {', '.join(ours.outputs)}: one cannot take the other's place"
        )
    return ours.not_taken_by(theirs)


def recorded(store: Store, ref: ModelRef) -> Recorded:
    """The rows that a loaded model is checked on. Raises StoreError."""
    return Recorded(**json.loads(store.read(_check_path(ref))))


def check(expected: Recorded, predictions: Mapping[str, Iterable[Any]]) -> str | None:
    """None when the predictions are those of the registered version, else what differs."""
    for column, wanted in expected.predictions.items():
        if column not in predictions:
            return f"column {column!r} is missing from the predictions"
        found = list(predictions[column])
        if len(found) != len(wanted):
            return f"{column}: expected {len(wanted)} rows, found {len(found)}"
        for row, (want, got) in enumerate(zip(wanted, found, strict=True)):
            if not _alike(want, got):
                return f"{column} of recorded row {row}: the registered version says {want!r}, found {got!r}"
    return None


def check_package(store: Store, ref: ModelRef, package: ModelPackage) -> str | None:
    """None when the loaded package answers the recorded rows as the registered one, else what differs."""
    expected = recorded(store, ref)
    return check(expected, _predictions(package, expected.columns))


def _record(version: VersionRef, package: ModelPackage) -> Recorded:
    columns = _example(version)
    return Recorded(columns, _predictions(package, columns))


def _predictions(package: ModelPackage, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    import pandas as pd

    found = package.predict(pd.DataFrame(columns))
    return {str(name): found[name].to_list() for name in found}


def _example(version: VersionRef) -> dict[str, list[Any]]:
    """The input example that was stored with the version, by column, as JSON has it."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from raymlops.registry.backend import first_line
    from raymlops.registry.values import finite

    try:
        source = version.tracking.client.get_model_version_download_uri(version.name, version.version)
        with tempfile.TemporaryDirectory(prefix="raymlops-example-") as scratch:
            path = download_artifacts(
                artifact_uri=f"{source.rstrip('/')}/input_example.json",
                dst_path=scratch,
                tracking_uri=version.tracking.uri,
            )
            raw = json.loads(Path(path).read_bytes())
        return {name: [finite(row[at]) for row in raw["data"]] for at, name in enumerate(raw["columns"])}
    except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
        raise RaymlopsError(f"{version.uri}: has no input example to check copies with: {first_line(error)}") from error


def _listed(manifest: bytes, ref: ModelRef) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{ref.path}: its manifest is damaged ({error})") from error


def _check_path(ref: ModelRef) -> str:
    return f"packages/{ref.sha256}.check.json"


def _alike(want: Any, got: Any) -> bool:
    if isinstance(want, str) or isinstance(got, str):
        return str(want) == str(got)
    return math.isclose(want, got, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
