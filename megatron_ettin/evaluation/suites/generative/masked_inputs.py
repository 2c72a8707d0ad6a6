"""Inputs with which a masked language model scores a text token by token.

Left to right, the masked token is the last of the text: ``[CLS] t1 ... ti-1 [MASK] [SEP]``, as in the harness fork of
Ettin's authors (orionw/lm-evaluation-harness). The fork has two more [MASK] before the [SEP]; here their number is
``future_masks``. With the full context, for pseudo-log-likelihoods (Salazar et al. 2020), the input is
``[CLS] t1 ... ti-1 [MASK] ti+1 ... tn [SEP]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

EncoderProtocol = Literal["left-to-right", "pll"]
"""``left-to-right``: each token given the tokens before it; ``pll``: each token given all other tokens."""
ENCODER_PROTOCOLS: tuple[EncoderProtocol, ...] = get_args(EncoderProtocol)


@dataclass(frozen=True)
class MaskedInput:
    """The tokens of a model input, and the position whose token is predicted."""

    tokens: tuple[int, ...]
    position: int


@dataclass(frozen=True)
class MaskedInputBuilder:
    """Builds inputs from texts, given the special tokens and the number of positions of a model.

    A text that does not fit loses its start; [CLS] is kept.
    """

    cls: int
    sep: int
    mask: int
    max_positions: int
    future_masks: int = 0
    """Number of [MASK] after the predicted one, for text of unknown content that follows."""

    def next_token(self, text: Sequence[int]) -> MaskedInput:
        """Return the input that predicts the token after a text."""
        tail = (self.mask,) * (1 + self.future_masks) + (self.sep,)
        room = self.max_positions - 1 - len(tail)
        kept = tuple(text[max(0, len(text) - room) :])
        return MaskedInput((self.cls, *kept, *tail), 1 + len(kept))

    def left_to_right(self, context: Sequence[int], continuation: Sequence[int]) -> Iterator[MaskedInput]:
        """Yield an input for each token of the continuation, with the tokens before it."""
        text = [*context, *continuation]
        for place in range(len(context), len(text)):
            yield self.next_token(text[:place])

    def full_context(self, context: Sequence[int], continuation: Sequence[int]) -> Iterator[MaskedInput]:
        """Yield an input for each token of the continuation, with all other tokens on both sides."""
        text = [*context, *continuation]
        room = self.max_positions - 2
        for place in range(len(context), len(text)):
            # A text that is too long loses its start; a token that would be lost is the first of its window instead.
            start = min(max(0, len(text) - room), place)
            window = text[start : start + room]
            window[place - start] = self.mask
            yield MaskedInput((self.cls, *window, self.sep), 1 + place - start)

    def is_truncated(self, context: Sequence[int], continuation: Sequence[int]) -> bool:
        """Whether a text is too long for the model's positions."""
        return 1 + len(context) + len(continuation) + self.future_masks + 1 > self.max_positions
