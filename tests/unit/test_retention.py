"""What gc may remove: never what something that is kept needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.errors import ConfigError
from raymlops.retraining.retention import YOUNG_SECONDS, Held, Item, Keep, KnownRun, Need, Plan, plan

NOW = 1_000_000_000.0
OLD = NOW - 30 * 86_400
HASHES = [f"{n:064x}" for n in range(4)]


def run(n: int, **changes: object) -> KnownRun:
    found = {"run_id": f"{n:032x}", "name": "small", "started": OLD + n, "running": False, "snapshot": HASHES[n % 4]}
    return KnownRun(**{**found, "checkpoint": f"runs/small/{n:032x}/refit", **changes})  # type: ignore[arg-type]


def items_of(known: KnownRun) -> Iterator[Item]:
    for child in ("tune", "trial-001", "refit", "package"):
        yield Item(f"runs/{known.name}/{known.run_id}/{child}", "run", 10, OLD, known.run_id)
    yield Item(f"quarantine/{known.run_id}", "quarantine", 1, OLD, known.run_id)


def snapshots(runs: list[KnownRun]) -> list[Item]:
    writers = {r.snapshot: r.run_id for r in reversed(runs) if r.snapshot}
    return [Item(f"snapshots/{h}", "snapshot", 100, OLD, writer, h) for h, writer in writers.items()]


def held(runs: list[KnownRun], *needs: Need, more: tuple[Item, ...] = ()) -> Held:
    items = [item for known in runs for item in items_of(known)]
    return Held((*items, *snapshots(runs), *more), tuple(runs), needs)


def removed(made: Plan) -> set[str]:
    return {item.path for item in made.remove}


def test_the_newest_runs_stay_with_all_that_is_theirs() -> None:
    runs = [run(n) for n in range(4)]
    made = plan(held(runs), Keep(newest=2), NOW)
    for known, stays in zip(runs, (False, False, True, True), strict=True):
        paths = {item.path for item in items_of(known)} | {f"snapshots/{known.snapshot}"}
        assert paths.isdisjoint(removed(made)) if stays else paths <= removed(made), known
    assert made.bytes == 2 * (40 + 1 + 100)
    assert made.kept[f"snapshots/{HASHES[3]}"] == f"run {runs[3].run_id[:12]} is kept"


def test_age_keeps_as_well() -> None:
    runs = [run(0), run(1, started=NOW - 3 * 86_400)]
    assert removed(plan(held(runs), Keep(younger=7 * 86_400), NOW)).isdisjoint(i.path for i in items_of(runs[1]))
    assert plan(held(runs), Keep(younger=86_400), NOW).kept == {}


def test_a_version_keeps_its_snapshot_and_its_weights_but_not_the_other_trials() -> None:
    old = run(0)
    made = plan(held([old, run(1)], Need("models:/small/1", old.run_id, old.snapshot)), Keep(newest=1), NOW)
    path = f"runs/small/{old.run_id}"
    assert {f"{path}/tune", f"{path}/trial-001"} <= removed(made)
    assert made.kept[f"{path}/refit"] == made.kept[f"{path}/package"] == "models:/small/1 needs it"
    assert made.kept[f"snapshots/{old.snapshot}"] == "models:/small/1 needs it"


def test_a_version_whose_weights_are_anywhere_keeps_its_whole_run() -> None:
    old = run(0, checkpoint=None)
    made = plan(held([old], Need("models:/small/1", old.run_id, old.snapshot)), Keep(), NOW)
    assert not {p for p in removed(made) if p.startswith("runs/")}


def test_weights_that_a_later_run_took_over_stay_with_the_run_that_made_them() -> None:
    first = run(0)
    later = run(1, checkpoint=first.checkpoint)
    assert first.checkpoint in plan(held([first, later]), Keep(newest=1), NOW).kept


def test_what_is_new_or_not_finished_is_left_alone() -> None:
    runs = [run(0, running=True), run(1)]
    young = Item("staging/" + runs[1].run_id, "staging", 5, NOW - YOUNG_SECONDS + 1, runs[1].run_id)
    aged = Item("staging/" + runs[0].run_id, "staging", 5, OLD, runs[0].run_id)
    made = plan(held(runs, more=(young, aged)), Keep(), NOW)
    assert {young.path, aged.path, *(i.path for i in items_of(runs[0]))} <= made.kept.keys()


def test_no_snapshot_goes_while_a_job_may_still_choose_it() -> None:
    starting = run(1, running=True, snapshot=None, started=NOW - 60)
    made = plan(held([run(0), starting]), Keep(), NOW)
    assert "has not chosen" in made.kept[f"snapshots/{HASHES[0]}"]
    dead = run(1, running=True, snapshot=None, started=OLD)
    assert f"snapshots/{HASHES[0]}" in removed(plan(held([run(0), dead]), Keep(), NOW))


def test_a_job_under_way_keeps_what_it_may_take_over() -> None:
    runs = [run(0), run(1, name="large")]
    unnamed = Item("staging/0123456789abcdef-1", "staging", 5, OLD)
    world = held(runs, more=(unnamed,))
    made = plan(Held(world.items, world.runs, (), frozenset({"small"})), Keep(), NOW)
    assert "a job of small is under way" in made.kept[f"snapshots/{HASHES[1]}"]
    assert not {path for path in removed(made) if not path.startswith(("runs/large/", "quarantine/"))}
    assert made.kept[unnamed.path] == "a job of small is under way"
    assert unnamed.path in removed(plan(world, Keep(), NOW))


def test_runs_of_another_tracking_store_keep_everything_they_may_need() -> None:
    stranger = Item("runs/other/" + "f" * 32 + "/refit", "run", 7, OLD, "f" * 32)
    made = plan(held([run(0)], more=(stranger,)), Keep(), NOW)
    assert "does not know" in made.kept[f"snapshots/{HASHES[0]}"]
    assert "not known to this tracking store" in made.kept[stranger.path]
    assert plan(held([run(0)], more=(stranger,)), Keep(), NOW, unknown=True).kept == {}


def test_a_name_limits_it_to_one_model() -> None:
    shared = [run(0), run(4, name="large")]  # both use the first snapshot
    own = run(1)
    made = plan(held([*shared, own]), Keep(), NOW, name="small")
    assert f"snapshots/{HASHES[0]}" in made.kept and f"snapshots/{HASHES[1]}" in removed(made)
    assert not {path for path in removed(made) if path.startswith("runs/large/")}


@pytest.mark.parametrize("text", ["", "-1", "ten", "5 m", "3dd", "1.5d"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--keep: found"):
        Keep.parse([text])


def test_a_version_needs_all_of_a_run_that_mlflow_has_forgotten() -> None:
    known = run(0)
    need = Need("models:/small/1", known.run_id, known.snapshot)
    made = plan(Held((*items_of(known), *snapshots([known])), (), (need,)), Keep(), NOW, unknown=True)
    assert removed(made) == {f"quarantine/{known.run_id}"}


def test_amounts() -> None:
    assert Keep.parse(["3", "2d", "12h", "1"]) == Keep(3, 2 * 86_400)
    assert Keep.parse(["1w"]).younger == 7 * 86_400


RUNS = st.lists(
    st.builds(
        lambda n, name, age, running, snapshot, borrowed: (n, name, age, running, snapshot, borrowed),
        st.integers(0, 30),
        st.sampled_from(["small", "large"]),
        st.floats(0, 60),
        st.booleans(),
        st.sampled_from([None, *HASHES]),
        st.none() | st.integers(0, 30),
    ),
    max_size=8,
    unique_by=lambda parts: parts[0],
)


@given(RUNS, st.lists(st.tuples(st.integers(0, 40), st.sampled_from(HASHES), st.booleans()), max_size=4), st.data())
def test_never_what_a_kept_thing_needs(runs_: list[tuple], needs_: list[tuple], data: st.DataObject) -> None:
    runs = []
    for n, name, age, running, snapshot, borrowed in runs_:
        other = borrowed if borrowed is not None else n
        checkpoint = f"runs/{name}/{other:032x}/refit"
        found = run(n, name=name, started=NOW - age * 86_400, running=running, snapshot=snapshot, checkpoint=checkpoint)
        runs.append(found)
    needs = [
        Need(f"version {n}", f"{n:032x}", h, (f"runs/small/{n:032x}/trial-001",) if known else ())
        for n, h, known in needs_
    ]
    keep = Keep(data.draw(st.integers(0, 4)), data.draw(st.floats(0, 60)) * 86_400)
    unknown, name = data.draw(st.booleans()), data.draw(st.sampled_from([None, "small"]))
    busy = frozenset(data.draw(st.sets(st.sampled_from(["small", "large"]))))
    plain = held(runs, *needs)
    world = Held(plain.items, plain.runs, plain.needs, busy)
    made = plan(world, keep, NOW, name=name, unknown=unknown)
    gone = removed(made)
    assert gone | made.kept.keys() == {item.path for item in world.items}

    def intact(path: str | None) -> bool:
        return path is None or not any(path == g or path.startswith(f"{g}/") or g.startswith(f"{path}/") for g in gone)

    for need in needs:
        assert intact(f"snapshots/{need.snapshot}")
        assert all(intact(path) for path in need.paths)
    newest = {
        m: sorted((r for r in runs if r.name == m), key=lambda r: (-r.started, r.run_id)) for m in ("small", "large")
    }
    for known in runs:
        rank = newest[known.name].index(known)
        if known.running or rank < keep.newest or NOW - known.started < keep.younger:
            assert intact(f"runs/{known.name}/{known.run_id}")
            assert intact(known.checkpoint)
            assert known.snapshot is None or intact(f"snapshots/{known.snapshot}")
        if known.name in busy or (name is not None and known.name != name):
            assert intact(f"runs/{known.name}/{known.run_id}")
    stricter = plan(world, Keep(keep.newest + 1, keep.younger + 86_400), NOW, name=name, unknown=unknown)
    assert removed(stricter) <= gone
