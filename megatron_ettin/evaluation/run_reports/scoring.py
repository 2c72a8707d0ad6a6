"""The loss of a released model over chunks of documents, through nothing but transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredChunk:
    """One chunk of a document as a model reads it, and what it is asked about.

    Shapes: S positions of the chunk, K scored positions.
    """

    tokens_S: NDArray[np.integer]
    """Input ids, special tokens and masking included."""
    scored_K: NDArray[np.integer]
    """Positions whose output is scored."""
    labels_K: NDArray[np.integer]
    """The right token at each of them."""


def split_chunks(
    tokens_T: NDArray[np.integer],
    cu_seqlens: NDArray[np.integer],
    scored_K: NDArray[np.integer],
    labels_K: NDArray[np.integer],
) -> list[ScoredChunk]:
    """Take a packed batch apart.

    Args:
        tokens_T: the input ids of all chunks, end to end.
        cu_seqlens: where each chunk begins, and the total.
        scored_K: scored positions in the whole batch, ascending.
        labels_K: the right token at each.
    """
    bounds = np.searchsorted(scored_K, cu_seqlens)
    return [
        ScoredChunk(tokens_T[start:end], scored_K[first:last] - start, labels_K[first:last])
        for start, end, first, last in zip(cu_seqlens[:-1], cu_seqlens[1:], bounds[:-1], bounds[1:], strict=True)
    ]


@dataclass(frozen=True)
class Score:
    """Sums over many chunks."""

    loss_sum: float
    """Of the cross-entropy, in nats."""
    scored_tokens: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a scored token, in nats."""
        return self.loss_sum / self.scored_tokens


def score_released(model: Any, chunks: Iterable[ScoredChunk]) -> Score:
    """Run every chunk alone, unpadded, and add up the losses in double precision.

    Args:
        model: a ``transformers`` model with logits, in evaluation mode.
        chunks: what to score; those that ask nothing are passed over.

    Raises:
        ValueError: nothing is scored at all.
    """
    loss_sum, scored_tokens = 0.0, 0
    for chunk in chunks:
        if len(chunk.scored_K) == 0:
            continue
        loss_sum += float(_chunk_loss(model, chunk))
        scored_tokens += len(chunk.scored_K)
    if scored_tokens == 0:
        raise ValueError("there is no scored token in these chunks")
    return Score(loss_sum, scored_tokens)


@torch.inference_mode()
def _chunk_loss(model: Any, chunk: ScoredChunk) -> torch.Tensor:
    tokens_S = torch.from_numpy(chunk.tokens_S.astype(np.int64))
    logits_SV = model(input_ids=tokens_S[None]).logits[0]
    scored_K, labels_K = (torch.from_numpy(ids.astype(np.int64)) for ids in (chunk.scored_K, chunk.labels_K))
    return torch.nn.functional.cross_entropy(logits_SV[scored_K].double(), labels_K, reduction="sum")


@torch.inference_mode()
def logit_difference(model: Any, tokens_S: torch.Tensor, expected_SV: torch.Tensor) -> float:
    """Return how far a model's logits are from ``expected_SV``, as a share of the largest of those (at least 1).

    Args:
        model: a ``transformers`` model with logits, in evaluation mode.
        tokens_S: input ids of one text.
        expected_SV: what another implementation of the same model computed.
    """
    logits_SV = model(input_ids=tokens_S[None]).logits[0]
    largest = max(1.0, float(expected_SV.abs().max()))
    return float((logits_SV - expected_SV).abs().max()) / largest


def unigram_entropy(tokens: NDArray[np.integer]) -> float:
    """Return the entropy, in nats a token, of the distribution of these tokens themselves.

    No predictor that ignores context can have a lower mean cross-entropy on the same tokens, for its best choice is
    their own distribution, which it would have to be told.

    Raises:
        ValueError: there are no tokens.
    """
    if tokens.size == 0:
        raise ValueError("the entropy of no tokens is not defined")
    counts = np.unique(tokens, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())
