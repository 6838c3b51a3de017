"""Traffic goes where the document says, the way the evidence believes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.errors import RaymlopsError
from raymlops.rollout.evidence import Assignment
from raymlops.serving.document import Arm, ModelRef, RoutingDocument
from raymlops.serving.router import Router

A, B, C = (ModelRef("m", str(n), str(n) * 64) for n in (1, 2, 3))
ALONE = RoutingDocument("m", term=1, version=1, champion=A)
KEYS = [f"user-{n}" for n in range(20_000)]


def split(*shares: int, salt: str = "s1") -> RoutingDocument:
    arms = (Arm(A), *(Arm(model, f"app-{model.version}") for model in (B, C)[: len(shares)]))
    return replace(ALONE, arms=arms, shares=shares, salt=salt, epoch=3, counted=True)


def arms_of(document: RoutingDocument, keys: list[str] = KEYS) -> list[int]:
    router = Router(document)
    return [router.route(key).arm for key in keys]


def test_the_champion_gets_everything_without_a_rollout() -> None:
    router = Router(ALONE)
    assert {router.route(key).arm for key in ("a", None, b"c")} == {0}
    assert router.variants == ("champion",) and router.weights == (1.0,)


@given(
    st.lists(st.integers(0, 4_900), min_size=1, max_size=2), st.text(min_size=1, max_size=12), st.binary(max_size=20)
)
def test_routing_is_the_assignment_that_the_evidence_checks(shares: list[int], salt: str, key: bytes) -> None:
    expected = Assignment(len(shares))
    expected.open_block([share / 10_000 for share in shares], salt=salt)
    found, wanted = Router(split(*shares, salt=salt)).route(key), expected.route(key)
    assert (found.arm, found.unit, found.keyed) == (wanted.arm, wanted.unit, True)


@pytest.mark.parametrize("keys", [KEYS, [None] * len(KEYS)], ids=["keyed", "without keys"])
def test_ten_percent_are_ten_percent(keys: list[str]) -> None:
    candidates = sum(arms_of(split(1_000), keys))
    n = len(keys)
    assert abs(candidates - 0.1 * n) < 4.5 * math.sqrt(n * 0.1 * 0.9)


def test_a_key_that_has_moved_to_the_candidate_stays_while_its_share_rises() -> None:
    before = [0] * len(KEYS)
    for share in (1, 100, 1_000, 5_000, 9_999):
        now = arms_of(split(share))
        assert all(new >= old for old, new in zip(before, now, strict=True))
        before = now


def test_a_new_salt_draws_anew() -> None:
    first, second = arms_of(split(5_000)), arms_of(split(5_000, salt="s2"))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert abs(same - len(KEYS) / 2) < 4.5 * math.sqrt(len(KEYS) / 4)


def test_variants_have_names_also_while_a_promoted_model_bakes() -> None:
    assert Router(split(1_000, 2_000)).variants == ("champion", "candidate-1", "candidate-2")
    assert Router(split(1_000, 2_000)).weights == pytest.approx((0.7, 0.1, 0.2))
    baking = Router(replace(ALONE, champion=B, arms=(Arm(A), Arm(B)), shares=(9_000,), salt="s"))
    assert baking.variants == ("control", "champion")
    assert baking.named("control") == 0
    assert {model.version for model in baking.models} == {"1", "2"}
    with pytest.raises(RaymlopsError, match="there are control, champion"):
        baking.named("candidate-1")


def test_isolated_models_need_not_be_in_the_process() -> None:
    assert Router(split(1_000)).models == (A,)
