"""The steps of a job in order, over one tracked run: each is found done, or done and recorded when complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from raymlops.retraining.desk import Desk
from raymlops.retraining.inputs import StepName, inputs_of
from raymlops.retraining.plan import JobRecord, Planned, Record, plan_step
from raymlops.retraining.result import RunResult
from raymlops.retraining.steps import Steps
from raymlops.retraining.training_steps import TrainingSteps
from raymlops.retraining.verdict_steps import VerdictSteps

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.tracking import Tracker


def read_source(desk: Desk, functions: dict[str, Any], steps: Steps, run_id: str) -> BuiltSnapshot:
    """The snapshot step; `run_id` names the directories that it writes to."""
    from raymlops.data.build import build_snapshot

    start = desk.origin.start
    with steps.step("snapshot", "read, check, profile and encode the data"):
        built = build_snapshot(
            desk.config,
            desk.base,
            desk.store,
            run_id,
            desk.now,
            functions,
            steps.watch.note,
            state=None if start is None else start.transform.state,
            sha256=None if desk.source is None else desk.source.sha256,
        )
        snapshot = built.snapshot
        rows = ", ".join(f"{snapshot.rows[part]:,} {part}" for part in ("train", "validation", "holdout"))
        steps.watch.note(f"snapshot {snapshot.hash[:12]} {'reused' if built.reused else 'written'}: {rows} rows")
    return built


@dataclass
class Job:
    """One run of the steps."""

    desk: Desk
    record: JobRecord
    """Which run this is, and what it was asked for."""
    own: str | None
    """The run whose steps count although they were asked for again: this one, if it goes on."""
    functions: dict[str, Any]
    tracker: Tracker
    steps: Steps
    fence: Callable[[], None]
    outputs: dict[StepName, dict[str, Any]] = field(default_factory=dict)
    reused: list[StepName] = field(default_factory=list)

    def run(self, built: BuiltSnapshot | None) -> RunResult:
        """`built` is a snapshot that was read a moment ago."""
        from raymlops.training.space import trial_count

        config = self.desk.config
        self.steps.watch.run_started(self.tracker.run_id)
        built = self._snapshot(built)
        training = TrainingSteps(self.desk, built, self.functions, self.tracker, self.steps)
        metric = training.metric
        search = self._do("search", f"{trial_count(config)} trials, comparing {metric.name}", training.search)
        if config.search.refit:
            what = f"{search['winner']['name']} again, on training and validation rows"
            self._do("refit", what, lambda: training.refit(search))
        with TemporaryDirectory(prefix="raymlops-") as folder:
            verdict = VerdictSteps(
                self.desk, built, metric, self.tracker, self.steps, self.fence, Path(folder), self.outputs
            )
            self._do("gate", "judge the model on the holdout", lambda: verdict.gate(self.record.at))
            self._do("register", "record, report and register", verdict.register)
            report = self._do("report", "draw the report", verdict.report)
        return RunResult(**report["result"], seconds=self.steps.total(), reused=list(self.reused))

    def _planned(self, step: StepName) -> Planned:
        return plan_step(step, self.desk.facts, self.desk.evidence, self.outputs, self.record.forced, self.own)

    def _do(self, step: StepName, what: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The output of the step, made now or earlier."""
        planned = self._planned(step)
        if planned.record is not None:
            self._found(planned.record)
        else:
            assert planned.key is not None
            self.record = replace(self.record, started={**self.record.started, step: planned.key})
            self.desk.records.write_job(self.record)
            with self.steps.step(step, what) as seconds:
                self._done(step, act(), seconds)
        return self.outputs[step]

    def _found(self, record: Record) -> None:
        self.outputs[record.step] = record.output
        self.reused.append(record.step)
        when = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        mine = record.run == self.tracker.run_id
        self.steps.watch.step_reused(record.step, f"{'this run' if mine else f'run {record.run[:12]}'} did it, {when}")
        if not mine:
            self.tracker.tag({f"raymlops.reused.{record.step}": record.run})

    def _done(self, step: StepName, output: dict[str, Any], seconds: Callable[[], float]) -> None:
        inputs = inputs_of(step, self.desk.facts, self.outputs)
        self.desk.records.done(step, inputs, output, self.tracker.run_id, seconds())
        self.outputs[step] = output

    def _snapshot(self, built: BuiltSnapshot | None) -> BuiltSnapshot:
        desk = self.desk
        planned = self._planned("snapshot")
        if built is None and planned.record is not None:
            self._found(planned.record)
            built = desk.snapshot(planned.record.output, planned.record.run == self.tracker.run_id)
        else:
            built = built or read_source(desk, self.functions, self.steps, self.tracker.run_id)
            output = desk.read(built)
            self._done("snapshot", output, lambda: self.steps.seconds["snapshot"])
        snapshot = built.snapshot
        self.tracker.log_data(
            snapshot=snapshot.hash,
            source=built.source,
            rows=snapshot.rows,
            columns=snapshot.manifest["columns"],
            contract=built.contract.to_yaml(),
            profile=built.profile.to_dict(),
            manifest=snapshot.manifest,
        )
        return built
