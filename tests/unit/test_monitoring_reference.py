"""The reference: its tolerances hold, it comes back from JSON as it was, and damage is noticed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.hashing import table_codes
from raymlops.data.profile import Profile
from raymlops.errors import ConfigError, DataError, IntegrityError
from raymlops.monitoring import Counts, Reference, layout_of_rows
from raymlops.monitoring.margins import chernoff, divergence, effective, intraclass, materiality


def correlated(effect: float, days: int = 40, rows: int = 500, features: int = 3, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    x = rng.normal(size=(len(day), features)) + effect * rng.normal(size=(days, features))[day]
    return pa.table({**{f"x{i}": x[:, i] for i in range(features)}, "c": rng.choice(["a", "b", "rare"], len(day))})


def times(table: pa.Table, days: int = 40) -> Any:
    day = np.arange(table.num_rows) * days // table.num_rows
    return np.datetime64("2024-01-01", "us") + day.astype("timedelta64[D]")


def reference(effect: float = 0.0, **options: Any) -> Reference:
    table = correlated(effect)
    return Reference.of_counts(Counts.by_day(layout_of_rows(table), table, times(table)), **options)


def binomial_tail(n: int, p: float, k: int) -> float:
    """P(Bin(n, p) <= k)."""
    if p in (0.0, 1.0):
        return 1.0 if p == 0.0 or k >= n else 0.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return math.fsum(map(math.exp, logs))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.5, 20))
def test_the_true_share_is_beyond_the_bound_as_rarely_as_stated(n: int, at: float, risk: float) -> None:
    k = round(at * n)
    high, low = float(chernoff(k / n, n, risk, upper=True)), float(chernoff(k / n, n, risk, upper=False))
    assert low <= k / n <= high
    if k < n:
        assert binomial_tail(n, high, k) <= math.exp(-risk) * 1.001
    if k > 0:
        assert 1.0 - binomial_tail(n, low, k - 1) <= math.exp(-risk) * 1.001 + 1e-12
    hoeffding = math.sqrt(risk / (2 * n))
    assert high <= k / n + hoeffding + 1e-9 and low >= k / n - hoeffding - 1e-9
    if low > 0.0 and high < 1.0:
        assert n * float(divergence(k / n, high)) == pytest.approx(risk, rel=1e-5)


def test_materiality_is_epsilon_at_the_median_and_less_at_the_ends() -> None:
    assert materiality([0.5, 0.05, 0.0], 0.02, 0.001) == pytest.approx([0.02, 0.00872, 0.001], abs=1e-5)


def test_effective_rows_never_exceed_what_days_allow() -> None:
    assert float(effective(5000, 5000, 0.0)) == 5000 and float(effective(5000, 5000, 1.0)) == 1
    assert float(effective(5000, 5000, 0.0064)) == pytest.approx(151.5, abs=0.5)


@pytest.mark.parametrize("effect", [0.05, 0.1])
def test_the_intraclass_correlation_is_found_with_its_margin(effect: float) -> None:
    p = 0.5
    truth = (effect * math.exp(-0) / math.sqrt(2 * math.pi)) ** 2 / (p * (1 - p))
    rng = np.random.default_rng(4)
    bounds = []
    for _ in range(200):
        share = 0.5 - effect / math.sqrt(2 * math.pi) * rng.normal(size=28)
        rows = rng.integers(1000, 6000, 28).astype(float)
        sums = rng.binomial(rows.astype(int), share).astype(float)
        expected = rows * sums.sum() / rows.sum()
        bounds.append(intraclass(sums[:, None], rows[:, None], expected[:, None], np.array([p * (1 - p)]))[0])
    assert 0.90 <= np.mean(np.array(bounds) >= truth) <= 0.99
    assert 1.2 < np.median(bounds) / truth < 2.5


def test_independent_days_cost_little() -> None:
    found = reference(0.0).icc
    assert found.max() < 0.004 and reference(0.2).icc.max() > 0.01


def test_bounds_surround_the_shares_and_hold_for_other_samples() -> None:
    made = reference(0.0)
    low, high = made.bounds
    assert (low <= made.shares).all() and (made.shares <= high).all()
    assert ((high - low) > 0.001).all() and (high - low).max() < 0.15
    more = correlated(0.0, seed=1)
    shares = np.divide(*made.layout.answers(Counts.of(made.layout, more, "w").total()))
    assert ((low[0] <= shares) & (shares <= high[0])).all()
    assert (np.subtract(*reference(0.2).bounds[::-1]) >= np.subtract(high, low) - 1e-9).mean() > 0.9


def test_few_days_are_refused_unless_rows_are_said_to_be_independent() -> None:
    table = correlated(0.0)
    counts = Counts.by_day(layout_of_rows(table), table, times(table, 13))
    with pytest.raises(DataError, match=r"expected rows of at least 14 days.*found 13"):
        Reference.of_counts(counts)
    made = Reference.of_counts(counts, independent=True)
    assert made.days == 0 and not made.icc.any() and made.rows == table.num_rows
    with pytest.raises(DataError, match="there are no rows"):
        Reference.of_counts(Counts(counts.layout))
    with pytest.raises(ConfigError, match=r"epsilon: expected a share in \[0, 0.5\), found 2"):
        Reference.of_counts(counts, independent=True, epsilon=2)


def test_strata_have_shares_of_their_own() -> None:
    table = correlated(0.0)
    clock = times(table) + (np.arange(table.num_rows) % 24) * np.timedelta64(3_600_000_000, "us")
    x = table.column("x0").to_numpy() + 2.0 * (np.arange(table.num_rows) % 24 >= 12)
    table = table.set_column(0, "x0", pa.array(x))
    layout = layout_of_rows(table)
    made = Reference.of_counts(Counts.by_day(layout, table, clock, "hour"), "hour")
    assert made.cells.shape == (24, layout.size) and made.rows == table.num_rows
    assert made.shares[13, 5] < made.shares[1, 5] - 0.2
    assert made.icc[:15].max() < 0.01  # the daily cycle is not taken for an effect of days
    with pytest.raises(DataError, match=r"found stratum 1 on .* expected strata 'none'"):
        Reference.of_counts(Counts.by_day(layout, table, clock, "hour"))


def test_a_profile_alone_will_do_with_the_error_of_its_sketch() -> None:
    table = correlated(0.0)
    made = Reference.of_profile(Profile.of(table, table_codes(table)))
    exact = Counts.of(made.layout, table, "w").total()
    shares = np.divide(*made.layout.answers(exact))
    assert np.abs(made.shares[0] - shares).max() < 0.02 and made.rows == table.num_rows
    low, high = made.bounds
    assert ((low[0] <= shares) & (shares <= high[0])).all()


@pytest.mark.parametrize("strata", ["none", "hour"])
def test_a_reference_comes_back_as_it_was(strata: Any) -> None:
    table = correlated(0.1)
    made = Reference.of_counts(Counts.by_day(layout_of_rows(table), table, times(table), strata), strata)
    back = Reference.from_json(made.to_json())
    assert back.to_json() == made.to_json() and back.digest == made.digest
    for ours, theirs in zip(made.bounds, back.bounds, strict=True):
        assert (ours == theirs).all()
    assert reference(0.1, epsilon=0.03).digest != reference(0.1).digest


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_an_integrity_error(data: Any) -> None:
    content = json.loads(SMALL)
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(
        st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=3)
    )
    try:
        made = Reference.from_json(json.dumps(content))
    except IntegrityError as error:
        assert "reference" in str(error)
    else:
        assert all(np.isfinite(bound).all() for bound in made.bounds)
        assert Reference.from_json(made.to_json()).digest == made.digest


SMALL = reference().to_json()
