"""Registered versions: find one by name, alias or number, and load its package with every hash checked."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.registry.backend import Tracking, first_line

if TYPE_CHECKING:
    from raymlops.registry.package import ModelPackage

CHAMPION, CANDIDATE = "champion", "candidate"
REFERENCE = re.compile(r"^(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))?$")


@dataclass(frozen=True)
class VersionRef:
    """One registered version of a model."""

    tracking: Tracking
    name: str
    version: str
    run_id: str | None
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    def load(self, device: str = "cpu") -> ModelPackage:
        """The package, checked against the hash that was recorded at registration.

        Raises IntegrityError when a stored file is not the one that was registered, RaymlopsError when the artifacts
        cannot be fetched.
        """
        from raymlops.registry.package import load_package

        with tempfile.TemporaryDirectory(prefix="raymlops-model-") as scratch:
            return load_package(self.fetch(Path(scratch)), sha256=self.package_sha256, device=device)

    def verify(self, directory: Path) -> None:
        """Raises IntegrityError unless `directory` holds exactly the package that was registered."""
        from raymlops.registry.package import read_files, verify

        verify(read_files(directory), self.uri, self.package_sha256)

    @property
    def package_sha256(self) -> str:
        """Hash of the package's manifest, which vouches for every other file."""
        if "package_sha256" not in self.tags:
            raise IntegrityError(f"{self.uri}: was not registered by raymlops (it has no tag package_sha256)")
        return self.tags["package_sha256"]

    def fetch(self, scratch: Path) -> Path:
        """Directory of the package: a copy below `scratch`, or the stored one when this machine has it."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        client = self.tracking.client
        try:
            source = client.get_model_version_download_uri(self.name, self.version)
            remote = "://" in source or source.startswith("mlflow-artifacts:")
            data = download_artifacts(
                artifact_uri=f"{source.rstrip('/')}/data",
                dst_path=str(scratch) if remote else None,
                tracking_uri=self.tracking.uri,
            )
            [package] = Path(data).iterdir()
        except (MlflowException, OSError, ValueError) as error:
            raise RaymlopsError(f"{self.uri}: cannot fetch the model package: {first_line(error)}") from error
        return package


def find_version(tracking: Tracking, reference: str, default_alias: str = CHAMPION) -> VersionRef:
    """The version that `NAME`, `NAME@ALIAS` or `NAME/VERSION` means; a bare name means its champion.

    Raises RaymlopsError when there is none.
    """
    match = REFERENCE.match(reference)
    if match is None:
        raise RaymlopsError(f"model {reference!r}: expected NAME, NAME@ALIAS or NAME/VERSION")
    name, alias, version = match["name"], match["alias"] or default_alias, match["version"]
    found = _lookup(tracking, name, alias, version)
    if found is None:
        known = _known_names(tracking)
        wanted = f"version {version}" if version else f"alias {alias!r}"
        what = f"has no {wanted}" if name in known else f"is not registered; known: {', '.join(known) or 'none'}"
        raise RaymlopsError(f"model {name!r} {what} (registry: {tracking.shown})")
    return found


def champion(tracking: Tracking, name: str) -> VersionRef | None:
    """The version with alias `champion`, None when the model has none."""
    return _lookup(tracking, name, CHAMPION, None)


def _lookup(tracking: Tracking, name: str, alias: str, version: str | None) -> VersionRef | None:
    from mlflow.exceptions import MlflowException

    if not tracking.exists:
        return None
    client = tracking.client
    try:
        if version is not None:
            found = client.get_model_version(name, version)
        else:
            found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # A missing alias of an existing model is reported as an invalid parameter.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise RaymlopsError(f"registry {tracking.shown}: {first_line(error)}") from error
    return VersionRef(tracking, name, str(found.version), found.run_id or None, dict(found.tags))


def _known_names(tracking: Tracking) -> list[str]:
    return sorted(m.name for m in tracking.client.search_registered_models()) if tracking.exists else []


def registered(tracking: Tracking, name: str, version: str, package_sha256: str) -> bool:
    """Whether this version exists and is of this package."""
    found = _lookup(tracking, name, CHAMPION, version)
    return found is not None and found.tags.get("package_sha256") == package_sha256
