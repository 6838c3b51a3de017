"""Where finished steps and jobs are recorded, and whether what they made still exists.

STORAGE/runs/NAME/steps/STEP/KEY.json     a step that was done: its inputs, its output, the run that did it
STORAGE/runs/NAME/steps/STEP/latest.json  a copy of the last one, to say what has changed since
STORAGE/runs/NAME/jobs/KEY.json           the latest run of a job and how far it came
STORAGE/runs/NAME/jobs/KEY/               who works on it: see `lock`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from raymlops.data.snapshot import directory
from raymlops.errors import IntegrityError
from raymlops.retraining.inputs import Inputs, StepName, key_of
from raymlops.retraining.plan import JobRecord, Record
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.registry.backend import Tracking
    from raymlops.registry.versions import VersionRef


T = TypeVar("T", Record, JobRecord)


class Records:
    """The records of one model. Every method does I/O and raises StoreError when the store cannot be reached."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.root = store, f"runs/{name}"

    def find(self, step: StepName, key: str) -> Record | None:
        return self._read(f"{self.root}/steps/{step}/{key}.json", Record)

    def latest(self, step: StepName) -> Record | None:
        return self._read(f"{self.root}/steps/{step}/latest.json", Record)

    def done(self, step: StepName, inputs: Inputs, output: dict[str, Any], run: str, seconds: float) -> Record:
        """Record a step, whose output must be complete and stored by now."""
        record = Record(step, key_of(inputs), inputs, output, run, seconds, time.time())
        data = json.dumps(asdict(record), default=str).encode()
        self.store.write(f"{self.root}/steps/{step}/{record.key}.json", data)
        self.store.write(f"{self.root}/steps/{step}/latest.json", data, sync=False)
        return record

    def job(self, key: str) -> JobRecord | None:
        return self._read(f"{self.root}/jobs/{key}.json", JobRecord)

    def write_job(self, job: JobRecord) -> None:
        self.store.write(f"{self.root}/jobs/{job.key}.json", json.dumps(asdict(job), default=str).encode())

    def jobs(self) -> Iterator[JobRecord]:
        """The latest run of every job of the model."""
        for name in self.store.list(f"{self.root}/jobs"):
            if name.endswith(".json") and (found := self.job(name.removesuffix(".json"))) is not None:
                yield found

    def lock_root(self, key: str) -> str:
        return f"{self.root}/jobs/{key}"

    def _read(self, path: str, kind: Callable[..., T]) -> T | None:
        if not self.store.exists(path):
            return None
        try:
            return kind(**json.loads(self.store.read(path)))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{self.store.location(path)}: is not a record ({error}); remove it") from error


class Evidence:
    """The book that a plan is made from: records, and a look at what they promise."""

    def __init__(
        self, records: Records, config: Config, tracking: Tracking, now: datetime, own: str | None = None
    ) -> None:
        """`own` is the unfinished run of the job, if there is one."""
        self.records, self.config, self.tracking, self.now, self.own = records, config, tracking, now, own
        self.find, self.latest = records.find, records.latest

    @cached_property
    def champion(self) -> VersionRef | None:
        """The version that a new model is compared with. Looked up late: importing MLflow takes a second or two, which
        are only lost when training has to be done anyway."""
        from raymlops.registry.versions import champion

        return champion(self.tracking, self.config.name)

    def broken(self, record: Record) -> str | None:
        check = getattr(self, f"_{record.step}", None)
        found: str | None = None if check is None else check(record.output, record.run)
        return found

    def _snapshot(self, output: dict[str, Any], run: str) -> str | None:
        if not self.records.store.exists(f"{directory(output['hash'])}/manifest.json"):
            return f"snapshot {output['hash'][:12]} is gone"
        if lacking := [name for name in self.config.used_columns() if name not in output["columns"]]:
            return f"column {lacking[0]!r} is not in snapshot {output['hash'][:12]}"
        until = output["fresh_until"]
        if until is not None and self.now.astimezone(UTC) > datetime.fromisoformat(until):
            return f"by the contract its rows are too old since {until}"
        return None

    def _search(self, output: dict[str, Any], run: str) -> str | None:
        after = self.latest("refit" if self.config.search.refit else "gate")
        died = sum(trial.get("died", False) for trial in output["trials"])
        if died and run == self.own and (after is None or after.run != run):
            # It was the machine that failed, not the trials, when the process did not get any further either.
            return f"{died} trial(s) lost their process"
        # After a refit the winner's values are all that is needed of a search.
        return None if self.config.search.refit else self._checkpoint(output["winner"])

    def _refit(self, output: dict[str, Any], run: str) -> str | None:
        return self._checkpoint(output)

    def _checkpoint(self, output: dict[str, Any]) -> str | None:
        gone = not self.records.store.exists(f"{output['path']}/checkpoint.json")
        return f"checkpoint {output['path']} is gone" if gone else None

    def _gate(self, output: dict[str, Any], run: str) -> str | None:
        """The verdict is about the champion of its time; that the model itself became champion does not change it."""
        if not self.records.store.exists(f"{output['package']}/manifest.json"):
            return f"package {output['package']} is gone"
        now = self.champion
        if now is not None and now.run_id == run:
            return None
        then = output["champion"]
        if (None if now is None else now.version) == then:
            return None
        return "there is no champion any more" if now is None else f"champion is version {now.version} now"

    def _register(self, output: dict[str, Any], run: str) -> str | None:
        from raymlops.registry.versions import registered

        version = output["version"]
        if version is None or registered(self.tracking, self.config.name, version, output["package_sha256"]):
            return None
        return f"version {version} is not registered any more"

    def _report(self, output: dict[str, Any], run: str) -> str | None:
        from raymlops.registry.adoption import run_exists

        return None if run_exists(self.tracking, run) else f"run {run[:12]} was deleted"
