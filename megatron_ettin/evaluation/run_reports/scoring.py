"""Loss and logits of a released model, by transformers' own forward pass, and the unigram entropy as a reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredChunk:
    """The input of one chunk of a document, with its scored positions.

    Shapes: S positions of the chunk, K scored positions.
    """

    tokens_S: NDArray[np.integer]
    """Input ids, with special tokens and masking."""
    scored_K: NDArray[np.integer]
    """Scored positions."""
    labels_K: NDArray[np.integer]
    """The label of each scored position."""


def split_chunks(
    tokens_T: NDArray[np.integer],
    cu_seqlens: NDArray[np.integer],
    scored_K: NDArray[np.integer],
    labels_K: NDArray[np.integer],
) -> list[ScoredChunk]:
    """Split a packed batch into its chunks.

    Args:
        tokens_T: the concatenated input ids of all chunks.
        cu_seqlens: the start of each chunk, and the total length.
        scored_K: scored positions in the whole batch, ascending.
        labels_K: the label of each.
    """
    bounds = np.searchsorted(scored_K, cu_seqlens)
    return [
        ScoredChunk(tokens_T[start:end], scored_K[first:last] - start, labels_K[first:last])
        for start, end, first, last in zip(cu_seqlens[:-1], cu_seqlens[1:], bounds[:-1], bounds[1:], strict=True)
    ]


@dataclass(frozen=True)
class LossSum:
    """Cross-entropy summed over chunks."""

    loss_sum: float
    """In nats."""
    scored_tokens: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a scored token, in nats."""
        return self.loss_sum / self.scored_tokens


def score_released(model: Any, chunks: Iterable[ScoredChunk]) -> LossSum:
    """Run every chunk separately, without padding, and sum the losses in double precision.

    Args:
        model: a ``transformers`` model with logits, in evaluation mode.
        chunks: the chunks to score; those without scored positions are skipped.

    Raises:
        ValueError: no position is scored.
    """
    loss_sum, scored_tokens = 0.0, 0
    for chunk in chunks:
        if len(chunk.scored_K) == 0:
            continue
        loss_sum += float(_chunk_loss(model, chunk))
        scored_tokens += len(chunk.scored_K)
    if scored_tokens == 0:
        raise ValueError("there is no scored token in these chunks")
    return LossSum(loss_sum, scored_tokens)


@torch.inference_mode()
def _chunk_loss(model: Any, chunk: ScoredChunk) -> torch.Tensor:
    tokens_S = torch.from_numpy(chunk.tokens_S.astype(np.int64))
    logits_SV = model(input_ids=tokens_S[None]).logits[0]
    scored_K, labels_K = (torch.from_numpy(ids.astype(np.int64)) for ids in (chunk.scored_K, chunk.labels_K))
    return torch.nn.functional.cross_entropy(logits_SV[scored_K].double(), labels_K, reduction="sum")


@torch.inference_mode()
def logit_difference(model: Any, tokens_S: torch.Tensor, expected_SV: torch.Tensor) -> float:
    """Return the largest difference of logits from ``expected_SV``, relative to its largest value (at least 1).

    Args:
        model: a ``transformers`` model with logits, in evaluation mode.
        tokens_S: input ids of one text.
        expected_SV: logits of the same model by another implementation.
    """
    logits_SV = model(input_ids=tokens_S[None]).logits[0]
    largest = max(1.0, float(expected_SV.abs().max()))
    return float((logits_SV - expected_SV).abs().max()) / largest


def unigram_entropy(tokens: NDArray[np.integer]) -> float:
    """Return the entropy of the distribution of these tokens, in nats a token.

    It is the lowest mean cross-entropy that a predictor without context can have on these tokens.

    Raises:
        ValueError: there are no tokens.
    """
    if tokens.size == 0:
        raise ValueError("the entropy of no tokens is undefined")
    counts = np.unique(tokens, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
