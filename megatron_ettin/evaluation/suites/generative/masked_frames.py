"""What a masked language model is shown to score a text token by token: the text with one hole, and special tokens.

Left to right, the hole is the last of the text: ``[CLS] t1 ... ti-1 [MASK] [SEP]``, as in the harness fork that Ettin's
authors published (orionw/lm-evaluation-harness); there two more [MASK] stand before the [SEP], here as many as
``future_masks`` says. With the whole text in sight, for pseudo-log-likelihoods (Salazar et al. 2020), it is
``[CLS] t1 ... ti-1 [MASK] ti+1 ... tn [SEP]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

EncoderProtocol = Literal["left-to-right", "pll"]
"""``left-to-right``: each token with what stands before it; ``pll``: each token with the whole rest of the text."""


ENCODER_PROTOCOLS: tuple[EncoderProtocol, ...] = get_args(EncoderProtocol)


@dataclass(frozen=True)
class Hole:
    """Tokens that a model is shown, and the position among them whose token it shall guess."""

    tokens: tuple[int, ...]
    position: int


@dataclass(frozen=True)
class Frame:
    """The special tokens around a text, and how many positions a model has.

    A text that does not fit loses its beginning; [CLS] stays.
    """

    cls: int
    sep: int
    mask: int
    max_positions: int
    future_masks: int = 0
    """[MASK] after the one that is to be guessed: text of unknown content follows."""

    def next_token(self, text: Sequence[int]) -> Hole:
        """Return the hole after a text."""
        tail = (self.mask,) * (1 + self.future_masks) + (self.sep,)
        room = self.max_positions - 1 - len(tail)
        kept = tuple(text[max(0, len(text) - room) :])
        return Hole((self.cls, *kept, *tail), 1 + len(kept))

    def left_to_right(self, context: Sequence[int], continuation: Sequence[int]) -> Iterator[Hole]:
        """Yield a hole for each token of the continuation, with what stands before it and nothing after it."""
        text = [*context, *continuation]
        for place in range(len(context), len(text)):
            yield self.next_token(text[:place])

    def all_in_sight(self, context: Sequence[int], continuation: Sequence[int]) -> Iterator[Hole]:
        """Yield a hole for each token of the continuation in turn, with the rest of the text on both sides."""
        text = [*context, *continuation]
        room = self.max_positions - 2
        for place in range(len(context), len(text)):
            # A text too long is cut at its beginning; a token that fell off is scored at the beginning of what it sees.
            start = min(max(0, len(text) - room), place)
            window = text[start : start + room]
            window[place - start] = self.mask
            yield Hole((self.cls, *window, self.sep), 1 + place - start)

    def is_cut(self, context: Sequence[int], continuation: Sequence[int]) -> bool:
        """Whether the text is too long to be seen whole."""
        return 1 + len(context) + len(continuation) + self.future_masks + 1 > self.max_positions
