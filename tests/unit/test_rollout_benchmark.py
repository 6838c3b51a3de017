"""The simulations behind benchmarks/results/rollout_evidence.md, on a small scale."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.rollout_evidence import report
from benchmarks.rollout_evidence_lib import streams
from benchmarks.rollout_evidence_lib.cost import cost
from benchmarks.rollout_evidence_lib.labels import chunks_cross, long_labels
from benchmarks.rollout_evidence_lib.nulls import nulls
from benchmarks.rollout_evidence_lib.peers import argo, flagger, kayenta
from benchmarks.rollout_evidence_lib.speed import cases, event_floor
from benchmarks.rollout_evidence_lib.traffic import Traffic
from raymlops.rollout import EvidenceConfig, FirstRequest, RateMetric, Report, RolloutEvidence
from raymlops.rollout.evidence.means import mean_log_e_paths
from raymlops.rollout.evidence.rates import log_e_paths, promotion_ratios


@pytest.mark.parametrize(("drop", "direction"), [(0.0, -1), (0.02, 1)])
def test_many_labels_in_chunks_cross_where_the_evidence_does(drop, direction):
    chunks = list(long_labels(np.random.default_rng(0), 40, 2_000, drop))
    values, arms = (np.concatenate([chunk[i] for chunk in chunks], axis=1) for i in (0, 1))
    shares = np.concatenate([np.full(chunk[0].shape[1], chunk[2]) for chunk in chunks])
    paths = mean_log_e_paths(values, arms.astype(float), shares, drop, direction)
    for threshold in (0.2, 0.5, 1.0):
        expected = (paths >= threshold).any(axis=1)
        assert 0 < expected.sum() < 40
        assert np.array_equal(chunks_cross(chunks, 40, drop, direction, threshold), expected)


def test_the_labels_of_many_predictions_drop_by_what_is_said():
    values, arms, _ = next(iter(long_labels(np.random.default_rng(0), 20_000, 4_000, 0.02)))
    means = [np.nanmean(values[arms == arm]) for arm in (False, True)]
    assert means[0] == pytest.approx(0.8, abs=0.002) and means[0] - means[1] == pytest.approx(0.02, abs=0.002)
    assert np.isnan(values).mean() == pytest.approx(0.3, abs=0.005)


def test_windows_of_m_requests_are_those_of_the_engine():
    """A simulated stream, fed to the engine as reports: the same evidence at the end."""
    keys = streams.zipf_keys(np.random.default_rng(1), 300, 0.2, exponent=0.3, spread=2.0)
    stream = streams.first_windows(np.random.default_rng(2), 1, keys, 20_000, (0.2, 0.5), 2.0, 4, 2_000.0)
    path = log_e_paths(stream.candidate, stream.shares, stream.epoch, promotion_ratios(2.0), 2.0, parts=stream.parts)
    config = EvidenceConfig((RateMetric("errors"),), request_timeout=1.0, first_requests=4)
    evidence = RolloutEvidence(config)
    evidence.open_block((0.2,), salt="s")
    evidence.open_epoch((0.5,))
    units = {(epoch, arm): _units(evidence, epoch, arm) for epoch in (0, 1) for arm in (0, 1)}
    rows = []
    for arm, index in zip(stream.candidate[0], stream.epoch[0], strict=True):
        if arm >= 0:
            epoch, events = index // 4, index % 4 + 1
            unit = next(units[epoch, arm])
            rows += [FirstRequest(int(epoch), int(arm), unit, 0.0, ("errors",) * int(n < events)) for n in range(4)]
    evidence.apply(Report("a", 1, tuple(rows)))
    found = evidence.tick(10_000.0).candidates[0].metrics[0].log_e_promotion
    assert len(rows) > 100 and found == pytest.approx(path[0, -1])


def _units(evidence: RolloutEvidence, epoch: int, arm: int):
    rng = np.random.default_rng([epoch, arm])
    while True:
        unit = int(rng.integers(0, 2**64, dtype=np.uint64))
        if evidence.assignment.arm_of(unit, epoch) == arm:
            yield unit


def test_every_null_runs_and_says_what_it_is():
    rows = list(nulls())
    assert len({(row.name, row.kind) for row in rows}) >= len(rows) - 1  # the average share is wrong both ways
    assert sum(row.right for row in rows if row.kind == "rollback") >= 15
    light = [row for row in rows if row.batch not in (125, 500)]
    for number, row in enumerate(light):
        decided = row.run(np.random.default_rng([1, number]), 2)
        assert decided.shape == (2,) and decided.dtype == bool


def test_peers_decide_as_documented():
    slots = 3600
    errors = np.zeros((2, slots), np.int16)
    errors[1, 600:] = 1  # from the tenth minute a fifth of the canary's requests fail
    t = Traffic(np.full((2, slots), 5, np.int16), np.zeros_like(errors), errors, np.full(slots, 0.5))
    assert argo(t, 0.95, 5, 3).tolist() == [np.inf, 30 * 600.0]  # four failed measurements, more than the limit of 3
    assert argo(t, 0.95, 5, 0).tolist() == [np.inf, 15 * 600.0]
    assert flagger(t, 0.99, 10).tolist() == [np.inf, 20 * 600.0]
    assert kayenta(t, 10).tolist() == [np.inf, 30 * 600.0]


def test_the_report_has_every_table_and_target():
    row = {"null": "a", "right": True, "rollouts": 10, "wrong": 0, "rate": 0.0, "low": 0.0, "high": 0.3}
    wrong = [{**row, "kind": kind} for kind in ("rollback", "promotion", "split")]
    speed = [{"case": c.name, "median": 1.0, "mean": 1.0, "decided": 1.0, "floor": c.floor, "ratio": 1.0 / c.floor,
              "target": c.target} for c in cases()]  # fmt: skip
    peer = {"scenario": "A/A", "rule": "x", "note": "y", "rollouts": 1, "rolled_back": 0.0, "median": None}
    made = report({"wrong": wrong, "speed": speed, "peers": [peer], "cost": cost(500)}, quick=True)
    assert made.tables[0].title.split(":")[0] == "Wrong rollbacks"
    assert len(made.targets) == 3 + 6 + 4
    assert "Requests to a decision" in made.markdown()


def test_floors_are_those_of_the_yardsticks():
    assert event_floor(0.01, 3, 0.5) == pytest.approx(1_760, abs=1)
    assert event_floor(0.01, 3, 0.1) == pytest.approx(4_156, abs=1)
    assert event_floor(0.001, 1000, 0.1) == pytest.approx(20.4, abs=0.1)
