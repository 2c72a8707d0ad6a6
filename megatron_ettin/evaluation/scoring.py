"""The loss of a released model over pieces of documents, through nothing but transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredPiece:
    """One piece of a document as a model reads it, and what it is asked about.

    Shapes: S positions of the piece, K scored positions.
    """

    tokens_S: NDArray[np.integer]
    """Input ids, special tokens and masking included."""
    scored_K: NDArray[np.integer]
    """Positions whose output is scored."""
    labels_K: NDArray[np.integer]
    """The right token at each of them."""


def split_pieces(
    tokens_T: NDArray[np.integer],
    cu_seqlens: NDArray[np.integer],
    scored_K: NDArray[np.integer],
    labels_K: NDArray[np.integer],
) -> list[ScoredPiece]:
    """Take a packed batch apart.

    Args:
        tokens_T: the input ids of all pieces, end to end.
        cu_seqlens: where each piece begins, and the total.
        scored_K: scored positions in the whole batch, ascending.
        labels_K: the right token at each.
    """
    bounds = np.searchsorted(scored_K, cu_seqlens)
    return [
        ScoredPiece(tokens_T[start:end], scored_K[first:last] - start, labels_K[first:last])
        for start, end, first, last in zip(cu_seqlens[:-1], cu_seqlens[1:], bounds[:-1], bounds[1:], strict=True)
    ]


@dataclass(frozen=True)
class Score:
    """Sums over many pieces."""

    loss_sum: float
    """Of the cross-entropy, in nats."""
    scored_tokens: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a scored token, in nats."""
        return self.loss_sum / self.scored_tokens


def score_released(model: Any, pieces: Iterable[ScoredPiece]) -> Score:
    """Run every piece alone, unpadded, and add up the losses in double precision.

    Args:
        model: a ``transformers`` model with logits, in evaluation mode.
        pieces: what to score; those that ask nothing are passed over.

    Raises:
        ValueError: nothing is scored at all.
    """
    loss_sum, scored_tokens = 0.0, 0
    for piece in pieces:
        if len(piece.scored_K) == 0:
            continue
        loss_sum += float(_piece_loss(model, piece))
        scored_tokens += len(piece.scored_K)
    if scored_tokens == 0:
        raise ValueError("there is no scored token in these pieces")
    return Score(loss_sum, scored_tokens)


@torch.inference_mode()
def _piece_loss(model: Any, piece: ScoredPiece) -> torch.Tensor:
    tokens_S = torch.from_numpy(piece.tokens_S.astype(np.int64))
    logits_SV = model(input_ids=tokens_S[None]).logits[0]
    scored_K, labels_K = (torch.from_numpy(ids.astype(np.int64)) for ids in (piece.scored_K, piece.labels_K))
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
