"""Bits per byte: a loss that does not depend on how a tokenizer cuts the text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.evaluation import EvaluationRows
from megatron_ettin.data.token_bytes import token_bytes
from megatron_ettin.data.tokenizer import TokenizerFiles
from megatron_ettin.objectives.objective import Objective


def count_scored_bytes(
    objective: Objective, sources: Sequence[EvaluationRows], tokenizer: TokenizerFiles
) -> int | None:
    """Return how many bytes of text the scored tokens of an evaluation stand for.

    It builds the batches of all rows once more and asks no model, so one rank can tell for all of them. Special tokens
    stand for no text. None where the tokenizer is no byte-level BPE, whose tokens do not tell their bytes.
    """
    try:
        lengths_V = bytes_by_token(tokenizer)
    except ConfigError:
        return None
    batches = (objective.eval_batch([row]) for source in sources for row in source)
    return sum(int(lengths_V[batch.labels_K].sum()) for batch in batches)


def bytes_by_token(tokenizer: TokenizerFiles) -> NDArray[np.int64]:
    """Return the number of bytes of text that each token id stands for; 0 for special tokens.

    Raises:
        ConfigError: the tokenizer is no byte-level BPE.
    """
    return np.array([len(told or b"") for told in token_bytes(tokenizer, "bits per byte")], dtype=np.int64)


def bits_per_byte(loss_sum: float, scored_bytes: int | None) -> float | None:
    """Return nats of all scored tokens as bits of each byte that they stand for; None where no bytes are known.

    The loss of special tokens (where a document ends) counts, their bytes are none: a text's end is told, not shown.
    """
    return loss_sum / math.log(2) / scored_bytes if scored_bytes else None
