"""Which MLflow: the tracking URI, the client, and the embedded database that is created where none is named."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raymlops.errors import ConfigError, RaymlopsError
from raymlops.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow when it is imported or used: nothing leaves the machine unasked, and jobs have their own display.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Tracking:
    """Where runs and models are recorded. No global state of MLflow is read or set, apart from its environment."""

    uri: str
    artifacts: str | None
    """Root of artifacts in experiments created here; None when a server decides."""
    database: Path | None = None
    """File of the embedded database."""

    @property
    def exists(self) -> bool:
        """False before the first run of an embedded store."""
        return self.database is None or self.database.exists()

    @property
    def direct(self) -> bool:
        """Whether this process talks to the database itself rather than to a server."""
        return urlsplit(self.uri).scheme.partition("+")[0] in DATABASES

    @cached_property
    def client(self) -> MlflowClient:
        """Opens the store, creating the embedded one. Raises RaymlopsError when it cannot be reached."""
        prepare_environment()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._check_reachable()
        try:
            with self._creating():
                client = MlflowClient(self.uri, os.environ.get("MLFLOW_REGISTRY_URI") or self.uri)
                client.search_experiments(max_results=1)
                return client
        except (MlflowException, OSError) as error:
            raise RaymlopsError(f"tracking: cannot open {self.shown}: {first_line(error)}") from error

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        parts = urlsplit(self.uri)
        return self.uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1) if parts.netloc else self.uri

    def _check_reachable(self) -> None:
        # MLflow's client retries for minutes before it says that nobody listens.
        parts = urlsplit(self.uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise RaymlopsError(f"tracking: nobody answers at {self.shown} ({error.strerror or error})") from error

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """MLflow does not lock the creation of its tables: one process at a time may find them missing."""
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with self.database.with_name(f".{self.database.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.database.exists():
                self._create(self.database)
            yield

    def _create(self, database: Path) -> None:
        """Under another name until it is whole: MLflow cannot go on with tables whose making was cut short."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for left in database.parent.glob(f".{database.name}.new-*"):
            left.unlink()
        new = database.with_name(f".{database.name}.new-{uuid.uuid4().hex}")
        SqlAlchemyStore(f"sqlite:///{new}", self.artifacts).engine.dispose()
        new.rename(database)


def prepare_environment() -> None:
    """Set defaults that MLflow reads; what the user has set stays. Call before MLflow is first imported."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def tracking(uri: str | None, store: Store) -> Tracking:
    """`uri` (configuration) before `MLFLOW_TRACKING_URI` before an sqlite database under a local store.

    Raises ConfigError for a remote store without a tracking URI: sqlite cannot live on an object store.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen and (urlsplit(chosen).scheme in ("", "file")) and chosen != "databricks":
        raise ConfigError(
            f"tracking.uri: {chosen!r} is a directory, which MLflow no longer writes to; "
            "use sqlite:////absolute/path.db, a database URI or an http(s) server"
        )
    if chosen:
        found = Tracking(chosen, None)
        return Tracking(chosen, store.location("mlartifacts")) if found.direct else found
    if not store.is_local:
        raise ConfigError(
            f"tracking.uri: not given, and storage {store.uri!r} is remote; an embedded database needs a local path, "
            "so name an MLflow server or database here or in MLFLOW_TRACKING_URI"
        )
    root = Path(store.uri).expanduser().resolve()
    return Tracking(f"sqlite:///{root / 'mlflow.db'}", str(root / "mlartifacts"), root / "mlflow.db")


class TrackingError(RaymlopsError):
    """The tracking store refused or could not be reached; `code` is MLflow's, where it gave one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Failures of MLflow and of the disk become TrackingError with one readable line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"tracking: {what} failed: {first_line(error)}", error.error_code) from error
    except OSError as error:
        raise TrackingError(f"tracking: {what} failed: {error}") from error


class ReportingClient:
    """MLflow's client, whose failures are told as TrackingError."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with reported(name.replace("_", " ")):
                return method(*arguments, **options)

        return call


def first_line(error: BaseException) -> str:
    """The first line of an error's message; MLflow appends whole stack traces."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
