"""A view's record: what is packed comes back, and other bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.artifacts.teacher_record import (
    FAILED,
    LOGIT_STEP,
    MASK,
    NO_SEG,
    ViewAnswers,
    pack_view,
    unpack_head,
    unpack_masks,
)
from data.types import Array


def _answers(status: Array, steps: Array) -> ViewAnswers:
    count = len(status)
    return ViewAnswers(
        status,
        steps * np.float32(LOGIT_STEP),
        np.full(count, 0.5, np.float32),
        np.ones((count, 2), np.float32),
        tuple(f"answer {k}" for k in range(count)),
    )


@given(
    st.lists(st.integers(-127, 127), min_size=1, max_size=4),
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_masks_of_any_levels_come_back(
    levels: list[int], shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.choice(np.array(levels, np.int8), shape)
    status = rng.choice(np.array([MASK, NO_SEG, FAILED], np.uint8), shape[0])
    answers = _answers(status, steps)
    drawn = status == MASK
    back = unpack_masks(pack_view(answers), drawn, shape[1:])
    np.testing.assert_array_equal(back, np.where(drawn[:, None, None], steps, 0))


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-64, 64), (0, 1), (5, 5)])
def test_masks_of_two_levels_take_a_bit_a_cell(low: int, high: int) -> None:
    noise = np.random.default_rng(0).random((2, 64, 64)) < 0.5
    steps = np.where(noise, np.int8(high), np.int8(low))
    answers = _answers(np.full(2, MASK, np.uint8), steps)
    record = pack_view(answers)
    assert len(record) < 2 * 64 * 64 / 8 + 200
    np.testing.assert_array_equal(unpack_masks(record, np.ones(2, bool), (64, 64)), steps)


def test_a_record_of_another_size_or_cut_off_is_none() -> None:
    record = pack_view(_answers(np.array([MASK, NO_SEG], np.uint8), np.full((2, 3, 4), 8, np.int8)))
    head = unpack_head(record, 2, 2)
    assert head.status.tolist() == [MASK, NO_SEG] and head.texts == ("answer 0", "answer 1")
    for queries, dim in ((1, 2), (3, 2), (2, 1), (2, 3)):
        with pytest.raises(ValueError, match="record|decode"):
            unpack_head(record, queries, dim)
    with pytest.raises(ValueError, match="record"):
        unpack_masks(record, head.drawn, (3, 9))
    with pytest.raises(ValueError, match="record"):
        unpack_head(record[:3], 2, 2)
    with pytest.raises((ValueError, RuntimeError)):
        unpack_masks(record[:-9], head.drawn, (3, 4))
