"""The formulas: against direct integration, another implementation, closed forms, and the definition of an e-value."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from raymlops.rollout.evidence import EvidenceError, MeanInterval, PooledThreshold, exceeds, ratio_interval
from raymlops.rollout.evidence.means import MeanEvidence, mean_log_e_paths
from raymlops.rollout.evidence.numerics import log_mixture, tilted_share
from raymlops.rollout.evidence.rates import (
    RESTART_EVERY,
    RateEvidence,
    log_e_paths,
    log_restart_prior,
    promotion_ratios,
    rollback_ratios,
    split_ratios,
)
from raymlops.rollout.evidence.strata import BET_FRACTIONS, LOG_PRIOR, ExcessEvidence, log_e_from_counts

shares = st.floats(0.01, 0.9)


@given(shares, st.floats(1.0, 3.0), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_rollback_evidence_has_mean_at_most_one_for_any_candidate_up_to_the_tolerance(share, tolerance, position):
    """Exactly, over all sequences of four events: arms are Bernoulli(q_ρ') with ρ' from 1 to the tolerance."""
    true = 1.0 + position * (tolerance - 1.0)
    q = tilted_share(true, share)
    mean = 0.0
    for arms in itertools.product([0, 1], repeat=4):
        evidence = RateEvidence(rollback_ratios(tolerance), tolerance)
        for arm in arms:
            evidence.add(share, bool(arm))
        mean += np.exp(evidence.log_e()) * q ** sum(arms) * (1 - q) ** (4 - sum(arms))
    assert mean <= 1.0 + 1e-9
    if true == tolerance:
        assert mean == pytest.approx(1.0)


@given(shares, st.floats(0.001, 0.3), st.floats(1.0, 3.0), st.floats(1.0, 2.0))
@settings(max_examples=100, deadline=None)
def test_promotion_evidence_has_mean_at_most_one_for_any_candidate_at_or_above_the_margin(share, rate, margin, worse):
    bad1, bad0 = min(1.0, rate * margin * worse), rate
    mean = 1.0 - share * bad1 - (1 - share) * bad0
    for arm, chance in ((True, share * bad1), (False, (1 - share) * bad0)):
        evidence = RateEvidence(promotion_ratios(margin), margin)
        evidence.add(share, arm)
        mean += chance * np.exp(evidence.log_e())
    assert mean <= 1.0 + 1e-9


@given(shares, st.floats(0.001, 0.3), st.floats(1.0, 2.0), st.integers(1, 6), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_evidence_of_windows_has_mean_at_most_one_whatever_the_events_of_a_key_have_in_common(
    share, rate, worse, m, together
):
    """Y = events in m requests / m, where a part `together` of the keys has all its requests fail at once: only the
    mean of Y matters. For the ratio (margin 2) and for the excess (δ = the true excess)."""
    rates = rate, min(1.0, rate * 2.0 * worse)
    mean_ratio = mean_excess = 0.0
    for arm, chance in ((False, 1.0 - share), (True, share)):
        for events in range(m + 1):
            p = (1.0 - together) * binom.pmf(events, m, rates[arm])
            p += together * {0: 1.0 - rates[arm], m: rates[arm]}.get(events, 0.0)
            ratio, excess = RateEvidence(promotion_ratios(2.0), 2.0), ExcessEvidence(rates[1] - rates[0], 1)
            if events:
                ratio.add(share, arm, part=events / m)
            excess.add(0.0, share, arm, part=events / m)
            mean_ratio += chance * p * np.exp(ratio.log_e())
            mean_excess += chance * p * np.exp(excess.log_e_by_stratum()[0])
    assert mean_excess == pytest.approx(1.0)
    if rate * 2.0 * worse <= 1.0:
        assert mean_ratio <= 1.0 + 1e-9


@given(shares, st.lists(st.integers(0, 50), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_excess_counted_one_by_one_agrees_with_its_counts(share, counts):
    evidence = ExcessEvidence(0.01, 1)
    clean, control, candidate = counts
    for arm, n, part in ((True, clean, 0.0), (False, control, 1.0), (True, candidate, 1.0)):
        for _ in range(n):
            evidence.add(0.0, share, arm, part=part)
    expected = log_mixture(log_e_from_counts(share, 0.01, *counts), LOG_PRIOR)
    assert evidence.log_e_by_stratum().get(0, 0.0) == pytest.approx(float(expected), abs=1e-9)
    other = ExcessEvidence(0.01, 1)
    other.load(json.loads(json.dumps(evidence.to_dict())))
    assert other.log_e() == evidence.log_e()


@given(shares, st.floats(0.0, 0.3), st.floats(0.0, 0.5), st.sampled_from([-1, 1]), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_mean_evidence_has_mean_at_most_one_under_its_null(share, delta, mean0, direction, beyond):
    """Scores are 0 or 1; the drop is at most δ (rollback) or at least δ (promotion)."""
    drop = delta * beyond if direction < 0 else delta + beyond * (mean0 - delta)
    mean1 = mean0 - drop
    if not 0.0 <= mean1 <= 1.0 or (direction > 0 and drop < delta):
        return
    total = 0.0
    for steps in itertools.product([(a, y) for a in (0, 1) for y in (0, 1)], repeat=2):
        evidence, chance = MeanEvidence(delta, direction), 1.0
        for arm, value in steps:
            m = mean1 if arm else mean0
            chance *= (share if arm else 1 - share) * (m if value else 1 - m)
            evidence.add(share, bool(arm), float(value))
        total += chance * np.exp(evidence.log_e())
    assert total <= 1.0 + 1e-9


@given(shares, st.floats(0.001, 0.1), st.floats(0.0, 0.5), st.floats(0.0, 0.3))
@settings(max_examples=100, deadline=None)
def test_excess_evidence_has_mean_at_most_one_if_the_excess_is_at_least_delta(share, delta, rate, more):
    bad1 = min(1.0, rate + delta + more)
    factors = [log_e_from_counts(share, delta, *counts) for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    chances = [1 - share * bad1 - (1 - share) * rate, (1 - share) * rate, share * bad1]
    mean = sum(chance * np.exp(f) for chance, f in zip(chances, factors, strict=True))
    if rate + delta + more <= 1.0:
        assert np.all(mean <= 1.0 + 1e-9)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_counting_one_by_one_agrees_with_the_vectorised_path(seed, restarts):
    rng = np.random.default_rng(seed)
    weights = (0.05, 0.25, 0.5)
    epochs = np.sort(rng.integers(0, 3, (1, 100)), axis=1)
    arms = rng.integers(0, 2, (1, 100))
    path = log_e_paths(arms, weights, epochs, rollback_ratios(), restarts=restarts)[0]
    evidence = RateEvidence(rollback_ratios(), restarts=restarts)
    for i in range(100):
        evidence.add(weights[epochs[0, i]], bool(arms[0, i]))
        assert evidence.log_e() == pytest.approx(path[i], abs=1e-9)
        if (i + 1) % RESTART_EVERY == 0 and restarts:
            evidence.fold()
        if i == 60:
            other = RateEvidence(rollback_ratios(), restarts=restarts)
            other.load(json.loads(json.dumps(evidence.to_dict())))
            assert other.log_e() == evidence.log_e()


def test_the_restart_recursion_is_the_sum_over_starts():
    """M ← M·f with γ_j added at each restart equals Σ_j γ_j Π_{k after start j} f_k."""
    rng = np.random.default_rng(0)
    arms, ratio, share = rng.integers(0, 2, 100), 3.0, 0.5
    f = np.where(arms, tilted_share(ratio, share) / share, (1 - tilted_share(ratio, share)) / (1 - share))
    direct = sum(np.exp(log_restart_prior(j)) * np.prod(f[j * RESTART_EVERY :]) for j in range(4))
    path = log_e_paths(arms[None], (share,), np.zeros((1, 100), int), np.array([ratio]), restarts=True)
    assert np.exp(path[0, -1]) == pytest.approx(direct)


def test_restart_priors_sum_to_one():
    assert sum(np.exp(log_restart_prior(j)) for j in range(100_000)) == pytest.approx(1.0, abs=1e-5)


def test_a_shared_drift_leaves_the_evidence_alone_and_an_average_share_does_not():
    """Twice as many events at a late epoch, in the proportions of its share, are no evidence."""
    evidence, wrong = RateEvidence(rollback_ratios()), RateEvidence(rollback_ratios())
    for share, n in ((0.05, 400), (0.5, 2_000)):
        for arm, count in ((True, round(n * share)), (False, round(n * (1 - share)))):
            evidence.add(share, arm, count)
            wrong.add(0.275, arm, count)
    assert evidence.log_e() < 0.0 < np.log(100.0) < wrong.log_e()


def test_mean_evidence_agrees_with_its_vectorised_path():
    rng = np.random.default_rng(1)
    values, arms = rng.random((1, 80)), rng.integers(0, 2, (1, 80))
    values[0, [3, 40]] = np.nan
    weights = np.repeat([0.1, 0.5], 40)
    path = mean_log_e_paths(values, arms, weights, 0.02, 1)[0]
    evidence = MeanEvidence(0.02, 1)
    for i in range(80):
        if not np.isnan(values[0, i]):
            evidence.add(weights[i], bool(arms[0, i]), values[0, i])
        assert evidence.log_e() == pytest.approx(path[i], abs=1e-9)


def test_the_weakest_part_of_the_day_decides():
    evidence = ExcessEvidence(0.01, 2)
    evidence.add(3_600.0, 0.5, False, 5_000)
    assert evidence.log_e() == 0.0
    evidence.add(50_000.0, 0.5, True, 100)
    by_stratum = evidence.log_e_by_stratum()
    assert evidence.log_e() == min(by_stratum.values()) == by_stratum[1]
    assert evidence.log_e_by_stratum()[1] == pytest.approx(np.log(np.mean((1 + BET_FRACTIONS * 0.5 * 0.01) ** 100)))


@pytest.mark.parametrize(("control", "candidate", "share", "alpha"), [(30, 60, 0.5, 0.05), (200, 10, 0.1, 0.01)])
def test_ratio_interval_agrees_with_direct_integration(control, candidate, share, alpha):
    """The mixture likelihood by adaptive quadrature over log r, and its level set by bisection."""

    def log_likelihood(log_r: float) -> float:
        q = tilted_share(np.exp(log_r), share)
        return float(candidate * np.log(q) + control * np.log1p(-q))

    edge = np.log(100.0)
    best = np.log(candidate / control * (1 - share) / share)
    top = log_likelihood(best)
    area = quad(lambda x: np.exp(log_likelihood(x) - top), -edge, edge, points=[best], limit=400)[0]
    level = top + np.log(area / (2 * edge)) - np.log(1 / alpha)

    def root(low: float, high: float) -> float:
        for _ in range(80):
            middle = (low + high) / 2
            inside = log_likelihood(middle) > level
            low, high = (low, middle) if inside == (low < best and high <= best) else (middle, high)
        return float(np.exp(low))

    found = ratio_interval({share: (control, candidate)}, alpha)
    assert found[0] == pytest.approx(root(-edge, best), rel=0.006)
    assert found[1] == pytest.approx(root(best, edge), rel=0.006)


def test_ratio_interval_covers_at_all_times_at_once():
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(150):
        arms = np.cumsum(rng.random(300) < tilted_share(2.0, 0.25))
        missed += any(
            not low <= 2.0 <= high
            for n in range(10, 301, 10)
            for low, high in [ratio_interval({0.25: (n - int(arms[n - 1]), int(arms[n - 1]))}, 0.1)]
        )
    assert missed <= 15


def test_mean_interval_agrees_with_confseq():
    """`predmix_lower_cs` of confseq 0.0.11 (Waudby-Smith & Ramdas), both sides at α/2 with the plug-in mean of the
    paper."""
    values = np.array([((i * 37 + 11) % 101) / 101 for i in range(500)]) ** 2
    expected = {
        10: (0.0, 1.0),
        50: (0.13839397921991484, 0.5033535057664011),
        100: (0.21951923101525533, 0.436707673695657),
        250: (0.26293444192366733, 0.3918118568232879),
        500: (0.28237325885825054, 0.3747773606121584),
    }
    interval = MeanInterval(0.05)
    for n, value in enumerate(values, start=1):
        interval.add([value])
        if n in expected:
            assert interval.interval == pytest.approx(expected[n], rel=1e-12)


def test_grids_lie_on_the_right_side_of_the_null():
    assert rollback_ratios(1.5).min() > 1.5
    assert promotion_ratios(2.0).max() < 2.0
    assert np.allclose(np.sort(1 / split_ratios()), split_ratios())


def test_a_pooled_threshold_is_frozen_seeded_and_blind_to_a_tolerated_slowdown():
    rng = np.random.default_rng(0)
    seed = rng.lognormal(0.0, 0.5, 2_000)
    pool = PooledThreshold(0.95, tolerance=1.5, seed=seed)
    frozen = pool.threshold
    assert frozen == pytest.approx(np.quantile(seed, 0.95), rel=0.01)
    for latency in rng.lognormal(0.0, 0.5, 4_000):
        pool.observe(latency * 1.5, candidate=True)
    assert pool.threshold == frozen
    assert pool.freeze() == pytest.approx(frozen, rel=0.1)
    again = PooledThreshold.from_dict(json.loads(json.dumps(pool.to_dict())))
    assert again.freeze() == pool.threshold
    assert exceeds(2.0, 1.5, candidate=False) and not exceeds(2.0, 1.5, candidate=True, tolerance=1.5)


def test_a_threshold_without_latencies_is_refused():
    with pytest.raises(EvidenceError, match="seed it"):
        PooledThreshold().freeze()
    with pytest.raises(EvidenceError, match="at least 0"):
        PooledThreshold().observe(float("nan"), candidate=False)
