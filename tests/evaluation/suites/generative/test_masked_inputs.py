"""Inputs that score a text token by token."""

from __future__ import annotations

import pytest

from megatron_ettin.evaluation.suites.generative.masked_inputs import MaskedInput, MaskedInputBuilder

C, S, M = 1, 2, 4


def test_left_to_right_ends_with_the_mask() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=10)
    assert list(builder.left_to_right([10, 11], [12, 13])) == [
        MaskedInput((C, 10, 11, M, S), 3),
        MaskedInput((C, 10, 11, 12, M, S), 4),
    ]


def test_first_token_without_context_has_an_empty_input() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=10)
    assert next(builder.left_to_right([], [12])) == MaskedInput((C, M, S), 1)


def test_two_future_masks_match_the_authors() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=10, future_masks=2)
    assert list(builder.left_to_right([10], [11])) == [MaskedInput((C, 10, M, M, M, S), 2)]


def test_full_context_masks_one_token_at_a_time() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=10)
    assert list(builder.full_context([10], [11, 12])) == [
        MaskedInput((C, 10, M, 12, S), 2),
        MaskedInput((C, 10, 11, M, S), 3),
    ]


@pytest.mark.parametrize("future_masks", [0, 2])
def test_long_text_loses_its_start_but_not_cls(future_masks: int) -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=8, future_masks=future_masks)
    (*_, last) = builder.left_to_right(range(10, 20), [20, 21])
    kept = range(21 - (5 - future_masks), 21)
    assert last == MaskedInput((C, *kept, *([M] * (1 + future_masks)), S), 1 + len(kept))
    assert len(last.tokens) == 8
    assert builder.is_truncated(range(10, 20), [20, 21])


def test_long_text_with_full_context_is_windowed() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=5)
    assert list(builder.full_context([10, 11], [12, 13, 14, 15])) == [
        MaskedInput((C, M, 13, 14, S), 1),
        MaskedInput((C, M, 14, 15, S), 1),
        MaskedInput((C, 13, M, 15, S), 2),
        MaskedInput((C, 13, 14, M, S), 3),
    ]


def test_text_that_just_fits_is_not_truncated() -> None:
    builder = MaskedInputBuilder(cls=C, sep=S, mask=M, max_positions=6)
    assert not builder.is_truncated([10, 11], [12, 13])
    assert builder.is_truncated([10, 11], [12, 13, 14])
