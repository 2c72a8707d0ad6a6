"""What a masked language model is shown, token by token."""

from __future__ import annotations

import pytest

from megatron_ettin.evaluation.suites.generative.masked_frames import Frame, Hole

C, S, M = 1, 2, 4


def test_left_to_right_ends_with_the_mask() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=10)
    assert list(frame.left_to_right([10, 11], [12, 13])) == [
        Hole((C, 10, 11, M, S), 3),
        Hole((C, 10, 11, 12, M, S), 4),
    ]


def test_first_token_without_context_sees_nothing() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=10)
    assert next(frame.left_to_right([], [12])) == Hole((C, M, S), 1)


def test_two_future_masks_are_the_form_of_the_authors() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=10, future_masks=2)
    assert list(frame.left_to_right([10], [11])) == [Hole((C, 10, M, M, M, S), 2)]


def test_whole_text_in_sight() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=10)
    assert list(frame.all_in_sight([10], [11, 12])) == [Hole((C, 10, M, 12, S), 2), Hole((C, 10, 11, M, S), 3)]


@pytest.mark.parametrize("future_masks", [0, 2])
def test_long_text_loses_its_beginning_but_not_cls(future_masks: int) -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=8, future_masks=future_masks)
    (*_, last) = frame.left_to_right(range(10, 20), [20, 21])
    kept = range(21 - (5 - future_masks), 21)
    assert last == Hole((C, *kept, *([M] * (1 + future_masks)), S), 1 + len(kept))
    assert len(last.tokens) == 8
    assert frame.is_cut(range(10, 20), [20, 21])


def test_long_text_in_sight_is_windowed_so_that_every_token_is_scored() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=5)
    assert list(frame.all_in_sight([10, 11], [12, 13, 14, 15])) == [
        Hole((C, M, 13, 14, S), 1),
        Hole((C, M, 14, 15, S), 1),
        Hole((C, 13, M, 15, S), 2),
        Hole((C, 13, 14, M, S), 3),
    ]


def test_text_that_just_fits_is_not_cut() -> None:
    frame = Frame(cls=C, sep=S, mask=M, max_positions=6)
    assert not frame.is_cut([10, 11], [12, 13])
    assert frame.is_cut([10, 11], [12, 13, 14])
