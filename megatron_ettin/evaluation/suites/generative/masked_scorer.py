"""Scores of many holes by a masked language model, in batches.

Three things make it fast on a CPU and change no score: holes that look the same are run once (the choices of a question
share their context, minimal pairs their beginning); batches hold holes of nearly equal length up to a number of tokens,
whoever asked for them; and only the masked position goes through prediction head and output matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megatron_ettin.evaluation.suites.generative.masked_frames import Hole

_WINDOW_TOKENS = 2_000_000
"""Holes are taken, sorted and run in portions of about so many tokens, which bounds memory."""

_LOGIT_ROWS = 128
"""Positions that go through the output matrix at once: 26 MB of logits with 50,368 tokens, which caches still hold."""

_PADDING = 1.15
"""A batch ends where its longest hole would be so much longer than its shortest."""


@dataclass(frozen=True)
class TokenScore:
    """One token in its hole."""

    log_prob: float
    """Natural logarithm."""
    is_best: bool
    """Whether no other token is likelier."""


class MaskedScorer:
    """A masked language model that guesses single tokens."""

    def __init__(self, model: Any, pad: int, tokens_per_batch: int = 4096) -> None:
        """Take a model of transformers such as ``ModernBertForMaskedLM``.

        Args:
            model: in evaluation mode, on its device.
            pad: the token that fills short rows; it is not attended to.
            tokens_per_batch: how many tokens, padding counted, a batch holds at most. One hole is always run.
        """
        self._model, self._pad, self._tokens_per_batch = model, pad, tokens_per_batch
        if hasattr(model, "head") and hasattr(model, "decoder"):
            self._body, self._to_logits = model.base_model, lambda states: model.decoder(model.head(states))
        else:  # classes of other families name their head each in its own way
            self._body, self._to_logits = model, lambda logits: logits

    def score(
        self, asked: Iterable[tuple[Hole, int]], on_progress: Callable[[int], None] = lambda _: None
    ) -> list[TokenScore]:
        """Return how likely each token is in its hole, in the order they were asked."""
        scores: list[TokenScore] = []
        for window in _windows(asked):
            unique = _indices_by_hole(hole for hole, _ in window)
            found: list[TokenScore | None] = [None] * len(window)
            done = 0
            for batch, logits_RV in self._logits(list(unique)):
                rows = [(row, index) for row, hole in enumerate(batch) for index in unique[hole]]
                for (_, index), score in zip(rows, _read(logits_RV, rows, window), strict=True):
                    found[index] = score
                done += len(rows)
                on_progress(len(scores) + done)
            scores += [score for score in found if score is not None]
        return scores

    def guess(self, holes: Sequence[Hole]) -> list[int]:
        """Return the likeliest token of each hole; the first of several."""
        unique = _indices_by_hole(holes)
        guesses = [0] * len(holes)
        for batch, logits_RV in self._logits(list(unique)):
            for hole, best in zip(batch, logits_RV.argmax(dim=-1).tolist(), strict=True):
                for index in unique[hole]:
                    guesses[index] = best
        return guesses

    def _logits(self, holes: list[Hole]) -> Iterator[tuple[list[Hole], torch.Tensor]]:
        """Yield holes a few at a time with the logits of their hidden tokens."""
        for batch in _batches(holes, self._tokens_per_batch):
            with torch.inference_mode():
                states_RH = self._states(batch)
                for start in range(0, len(batch), _LOGIT_ROWS):
                    rows = slice(start, start + _LOGIT_ROWS)
                    yield batch[rows], self._to_logits(states_RH[rows]).float()

    def _states(self, batch: list[Hole]) -> torch.Tensor:
        """Return what the model's body says at the position of each hole."""
        longest = max(len(hole.tokens) for hole in batch)
        is_even = all(len(hole.tokens) == longest for hole in batch)
        ids_BL = torch.tensor([hole.tokens + (self._pad,) * (longest - len(hole.tokens)) for hole in batch])
        lengths_B = torch.tensor([len(hole.tokens) for hole in batch])
        # Without a mask attention takes a faster way; it makes no difference where there is nothing to hide.
        mask_BL = None if is_even else (torch.arange(longest) < lengths_B[:, None]).long().to(self._model.device)
        states_BLH = self._body(input_ids=ids_BL.to(self._model.device), attention_mask=mask_BL)[0]
        return states_BLH[torch.arange(len(batch)), torch.tensor([hole.position for hole in batch])]


def _read(
    logits_RV: torch.Tensor, rows: Sequence[tuple[int, int]], window: Sequence[tuple[Hole, int]]
) -> Iterator[TokenScore]:
    """Yield the scores of the tokens asked for, each given as (row of logits, index in the window)."""
    best_R = logits_RV.argmax(dim=-1)
    row_N = torch.tensor([row for row, _ in rows], device=logits_RV.device)
    token_N = torch.tensor([window[index][1] for _, index in rows], device=logits_RV.device)
    # One fused pass: four times as fast as logsumexp and subtracting.
    log_prob_N = logits_RV.log_softmax(dim=-1)[row_N, token_N].tolist()
    is_best_N = (best_R[row_N] == token_N).tolist()
    return (TokenScore(log_prob, is_best) for log_prob, is_best in zip(log_prob_N, is_best_N, strict=True))


def _windows(asked: Iterable[tuple[Hole, int]]) -> Iterator[list[tuple[Hole, int]]]:
    window: list[tuple[Hole, int]] = []
    num_tokens = 0
    for hole, token in asked:
        window.append((hole, token))
        num_tokens += len(hole.tokens)
        if num_tokens >= _WINDOW_TOKENS:
            yield window
            window, num_tokens = [], 0
    if window:
        yield window


def _indices_by_hole(holes: Iterable[Hole]) -> dict[Hole, list[int]]:
    found: dict[Hole, list[int]] = {}
    for index, hole in enumerate(holes):
        found.setdefault(hole, []).append(index)
    return found


def _batches(holes: list[Hole], tokens_per_batch: int) -> Iterator[list[Hole]]:
    """Yield holes from the longest to the shortest, so that what does not fit into memory shows at once."""
    batch: list[Hole] = []
    for hole in sorted(holes, key=lambda hole: -len(hole.tokens)):
        longest = len((batch or [hole])[0].tokens)
        if batch and ((len(batch) + 1) * longest > tokens_per_batch or longest > _PADDING * len(hole.tokens)):
            yield batch
            batch = []
        batch.append(hole)
    if batch:
        yield batch
