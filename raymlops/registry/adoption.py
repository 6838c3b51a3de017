"""Going on with a tracked run whose process died: what it has recorded already is looked up and not recorded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raymlops.registry.backend import Tracking, reported
from raymlops.registry.versions import CANDIDATE, CHAMPION

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

STATUS = "trial.status"
PARENT = "mlflow.parentRunId"
PAGE = 500


def active_run(tracking: Tracking, run_id: str) -> Run | None:
    """The run, None when it does not exist or was deleted. Raises TrackingError when the store cannot be reached."""
    from mlflow.exceptions import MlflowException

    if not tracking.exists:
        return None
    with reported(f"looking for run {run_id}"):
        try:
            found = tracking.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return found if found.info.lifecycle_stage == "active" else None


def run_exists(tracking: Tracking, run_id: str) -> bool:
    return active_run(tracking, run_id) is not None


def close_run(tracking: Tracking, run_id: str, reason: str) -> None:
    """End a run that nobody is going to finish; one that has ended stays as it is."""
    run = active_run(tracking, run_id)
    if run is None or run.info.status != "RUNNING":
        return
    with reported(f"closing run {run_id}"):
        tracking.client.set_tag(run_id, "error", reason)
        tracking.client.set_terminated(run_id, "KILLED")


def open_again(client: Any, run: Run) -> None:
    """Back to RUNNING, without the marks of how it ended."""
    client.update_run(run.info.run_id, status="RUNNING")
    if "error" in run.data.tags:
        client.delete_tag(run.info.run_id, "error")
    if run.data.tags.get("verdict") == "stopped":
        client.delete_tag(run.info.run_id, "verdict")


def logged_trials(client: Any, experiment: str, run_id: str) -> dict[str, tuple[str, str]]:
    """Name to (run id, status) of the run's trials. One whose record was cut short is deleted: it comes again."""
    found: dict[str, tuple[str, str]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=PAGE, page_token=token)
        for run in page:
            name = run.info.run_name
            if run.info.status == "RUNNING" or name in found:
                client.delete_run(run.info.run_id)
            else:
                found[name] = run.info.run_id, run.data.tags.get(STATUS, "")
        token = page.token
        if not token:
            return found


def logged_model(client: Any, experiment: str, run_id: str, package_sha256: str) -> LoggedModel | None:
    """The model that this run has stored, or begun to store, from this package. Others of the run that were never
    registered are deleted: their package was made anew."""
    kept = None
    for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        if kept is None and model.tags.get("package_sha256") == package_sha256:
            kept = model
        elif "mlflow.modelVersions" not in model.tags:
            client.delete_logged_model(model.model_id)
    return kept


def own_version(client: Any, name: str, run_id: str, package_sha256: str) -> Any | None:
    """The version that this run has registered of this package."""
    versions = client.search_model_versions(f"run_id = '{run_id}'", max_results=PAGE)
    return next((v for v in versions if v.name == name and dict(v.tags).get("package_sha256") == package_sha256), None)


def settle_alias(client: Any, name: str, version: str) -> str:
    """Give a version its alias unless it had one or a later version took it: the first of a model is its champion,
    later ones its candidate. Returns the alias that was due to it."""
    aliases = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    due = CHAMPION if aliases.get(CHAMPION, version) == version else CANDIDATE
    if int(aliases.get(due, 0)) < int(version):
        client.set_registered_model_alias(name, due, version)
    return due


def orphan(tracking: Tracking, name: str, tag: str, value: str) -> str | None:
    """An open run of the model with this tag: its process died before it could write down that it had opened it."""
    from raymlops.registry.catalog import find_jobs

    with reported("looking for open runs"):
        for run in find_jobs(tracking, name):
            if run.data.tags.get(tag) == value and run.info.status == "RUNNING":
                return str(run.info.run_id)
    return None
