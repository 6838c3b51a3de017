"""Numbers of detectors as text: what comes back is what was stored, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raymlops.monitoring.packing import pack_counts, pack_fixed, rounded_down, unpack_counts, unpack_fixed


@given(arrays(np.int64, st.tuples(st.integers(0, 4), st.integers(0, 6))))
def test_counts_come_back(values: np.ndarray) -> None:
    assert (unpack_counts(pack_counts(values), values.shape) == values).all()


@given(arrays(np.float64, st.integers(0, 20), elements=st.floats(allow_nan=False)), st.integers(-127, 0))
def test_what_was_rounded_comes_back_and_is_hardly_less(values: np.ndarray, least: int) -> None:
    rounded = rounded_down(values, least)
    assert (unpack_fixed(pack_fixed(rounded), rounded.shape) == rounded).all()
    assert (rounded <= values).all() and (rounded_down(rounded, least) == rounded).all()
    inside = (values >= least) & (values <= 127)
    assert (values[inside] - rounded[inside] <= 1 / 256).all() and np.isneginf(rounded[values < least]).all()


def test_small_counts_take_about_a_byte_and_zeros_nothing() -> None:
    draw = np.random.default_rng(0)
    assert len(pack_counts(draw.poisson(12, 8000))) < 8000
    assert len(pack_counts(np.zeros((24, 340), np.int64))) < 120


@pytest.mark.parametrize("text", ["", "!", "abc de", pack_counts([1, 2]), pack_counts([1, 2, 3, 4])])
def test_damage_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"numbers|base85"):
        unpack_counts(text, (3,))
