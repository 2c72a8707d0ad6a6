"""Texts as token ids, with the special tokens that a released tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ettin.evaluation.suites.classification.data import Text


@dataclass(frozen=True)
class Frame:
    """What stands before, between and after texts."""

    start: Sequence[int]
    between: Sequence[int]
    end: Sequence[int]

    def put_around(self, parts: Sequence[Sequence[int]], max_length: int) -> list[int]:
        """Return one input of at most ``max_length`` tokens; of a pair, the longer text is cut first."""
        room = max_length - len(self.start) - len(self.end) - len(self.between) * (len(parts) - 1)
        tokens = list(self.start)
        for number, (part, length) in enumerate(zip(parts, _cut_lengths([len(p) for p in parts], room), strict=True)):
            tokens += [*(self.between if number else ()), *part[:length]]
        return tokens + list(self.end)


def read_frame(tokenizer: Any) -> Frame:
    """Tell what a tokenizer puts around a text: an encoder's [CLS] text [SEP], a decoder's [CLS] text.

    Two texts are parted by [SEP] in both. An encoder's own template says so; a decoder's would run them together, so
    that no model could tell where the second begins.
    """
    told = tokenizer("a", return_special_tokens_mask=True)
    is_special = told["special_tokens_mask"]
    first = is_special.index(0)
    last = len(is_special) - 1 - is_special[::-1].index(0)
    tokens = told["input_ids"]
    separators = (tokenizer.sep_token_id, tokenizer.eos_token_id)
    return Frame(tokens[:first], [token for token in separators if token is not None][:1], tokens[last + 1 :])


def encode_texts(tokenizer: Any, texts: Sequence[Text], max_length: int) -> list[list[int]]:
    """Return the token ids of each text or pair."""
    frame = read_frame(tokenizer)
    flat = [part for text in texts for part in text]
    ids = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
    return [frame.put_around([next(ids) for _ in text], max_length) for text in texts]


def _cut_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """Return how much of each of one or two texts fits when the longer is cut first."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    half = room // 2
    first = max(room - half, room - lengths[1])
    return [min(lengths[0], first), min(lengths[1], room - min(lengths[0], first))]
