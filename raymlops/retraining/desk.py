"""Everything known about a job before anything is done: facts, records, champion; and the plan that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.config import Config
from raymlops.data.fingerprint import Memory, fingerprint
from raymlops.registry.backend import tracking
from raymlops.retraining.facts import gather, with_contract
from raymlops.retraining.inputs import PARTS, StepName, job_key, key_of, part_inputs
from raymlops.retraining.plan import JobRecord, Planned, make_plan
from raymlops.retraining.records import Evidence, Records
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage


@dataclass(frozen=True)
class Origin:
    """What a job has to know when it is a retraining."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Set on its run and on the version that it registers. Jobs with other tags are other jobs."""
    start: ModelPackage | None = None
    """Train on from these weights, with the features as they were fitted for them."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier search found and the configuration takes over; recorded with what this one finds."""
    fence: Callable[[], None] = lambda: None
    """Called before the model is registered; raises when somebody else has taken the work over."""


class Desk:
    """One job's configuration and what is true and recorded of it now. Reads only.

    Raises DataError when the source does not exist, RaymlopsError when store or registry cannot be reached.
    """

    def __init__(self, config: Config, base: Path, store: Store, origin: Origin, now: datetime | None = None) -> None:
        self.config, self.base, self.store, self.origin = config, base, store, origin
        self.now = now or datetime.now(UTC)
        self.tracking = tracking(config.tracking.uri, store)
        self.records = Records(store, config.name)
        self.memory = Memory(store, f"runs/{config.name}/files.json")
        self.look()

    def look(self) -> None:
        """Find out what is true now."""
        origin = self.origin
        self.facts, self.source = gather(
            self.config, self.base, self.store, self.memory, origin.tags, origin.values, origin.start
        )
        self.key = job_key(self.facts)
        self.earlier: JobRecord | None = self.records.job(self.key)
        self.evidence = Evidence(self.records, self.config, self.tracking, self.now, self.own)

    def plan(
        self, forced: StepName | None = None, made: Mapping[StepName, dict[str, Any]] | None = None
    ) -> list[Planned]:
        # What somebody asks for anew counts as undone, whoever did it.
        own = self.own if self.earlier is not None and forced in (None, self.earlier.forced) else None
        return make_plan(self.facts, self.evidence, forced, own, made)

    @property
    def own(self) -> str | None:
        """The run of this job that waits to be finished."""
        return self.earlier.run_id if self.earlier is not None and self.earlier.unfinished else None

    def read(self, built: BuiltSnapshot) -> dict[str, Any]:
        """The output of the snapshot step, which may have made the contract that is in force from now on.

        Where files came or changed while the source was read nobody can say what the snapshot is of: the step is then
        recorded in a way that no later run finds.
        """
        again = fingerprint(self.config.data, self.base, self.memory)
        facts = with_contract(self.facts, self.config, self.base, self.store)
        if again is not None and again.parts != facts.source:
            facts = replace(facts, source={f"the source while it was read at {self.now.isoformat()}": "changed"})
        self.facts = facts
        self.memory.save()
        files = built.snapshot.manifest["files"]
        made = {"profile": "profile.json", "contract": "contract.yaml", "features": "features.json"}
        age, times = built.contract.max_age, built.snapshot.manifest["time_range"]
        newest = max((datetime.fromisoformat(high) for _, high in times.values()), default=None)
        return {
            "hash": built.snapshot.hash,
            "columns": built.snapshot.manifest["columns"],
            "source": built.source,
            "excluded": built.excluded,
            "quarantined": built.quarantined,
            "quarantine_path": built.quarantine_path,
            "contract_inferred": built.contract_inferred,
            "new_categories": built.new_categories,
            "fresh_until": None if age is None or newest is None else _utc(newest + age).isoformat(),
            "parts": {
                part: {
                    "key": key_of(part_inputs(part, facts)),
                    "inputs": part_inputs(part, facts),
                    "output": files[made[part]]["sha256"],
                }
                for part in PARTS
            },
        }

    def snapshot(self, output: Mapping[str, Any], mine: bool) -> BuiltSnapshot:
        """What was read earlier, by this run (`mine`) or another one."""
        from raymlops.data.contract_file import current_contract
        from raymlops.data.snapshot import BuiltSnapshot, Snapshot

        snapshot = Snapshot.open(self.store, output["hash"])
        contract = current_contract(self.config, self.base, self.store)
        assert contract is not None, "the step's key holds the contract's digest"
        kept = ("source", "excluded", "quarantined", "quarantine_path", "new_categories")
        inferred = mine and output["contract_inferred"]
        return BuiltSnapshot(snapshot, snapshot.profile(), contract, inferred, True, **{k: output[k] for k in kept})


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
