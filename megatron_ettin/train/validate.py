"""Validation: the loss on held-out documents, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.token_bytes import token_bytes
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.rows import EvaluationRows, Row
from megatron_ettin.errors import ConfigError
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.train.build import Training
from megatron_ettin.train.step import Sums, evaluate_batches

_BATCHES_AT_A_TIME = 64
"""Micro-batches that are built before they are scored; limits the memory for a large split."""


def validate_sources(
    training: Training, objective: Objective, sources: Sequence[EvaluationRows], limit: int
) -> tuple[Sums, dict[str, Sums]]:
    """Score every source; return the total, and the sums of each source by name if there are several.

    Args:
        training: the model.
        objective: builds the batches.
        sources: their validation rows.
        limit: first rows to score, shared between sources by size; 0 for all.
    """
    num_rows = sum(map(len, sources))
    wanted = min(limit, num_rows) or num_rows
    sums = [validate(training, objective, rows, -(-wanted * len(rows) // num_rows)) for rows in sources]
    by_source = {rows.name: each for rows, each in zip(sources, sums, strict=True)} if len(sums) > 1 else {}
    return sum(sums, Sums(0.0, 0, 0, 0)), by_source


def validate(training: Training, objective: Objective, rows: Sequence[Row], num_rows: int) -> Sums:
    """Score the first ``num_rows`` rows once each, distributed over the data-parallel ranks.

    Weights, optimizer and random states do not change. Every rank makes the same number of passes; the sums are totals
    over all ranks and do not depend on how rows are distributed or batched.
    """
    ranks, micro_batch = training.ranks, training.config.training.micro_batch_size
    end = min(num_rows, len(rows))
    rows_per_pass = _BATCHES_AT_A_TIME * micro_batch * ranks.dp_size
    total = Sums(0.0, 0, 0, 0)
    for start in range(0, end, rows_per_pass):
        own = range(start + ranks.dp_rank, min(start + rows_per_pass, end), ranks.dp_size)
        parts = [own[i : i + micro_batch] for i in range(0, len(own), micro_batch)]
        batches = [objective.eval_batch([rows[number] for number in part]) for part in parts]
        total += evaluate_batches(training, batches)
    return total


def count_scored_bytes(
    objective: Objective, sources: Sequence[EvaluationRows], tokenizer: TokenizerFiles
) -> int | None:
    """Return the bytes of text that the scored tokens of an evaluation encode; special tokens encode none.

    It builds the batches of all rows again but needs no model, so one rank computes it for all. Returns None if the
    tokenizer is not a byte-level BPE, whose tokens determine their bytes.
    """
    try:
        lengths_V = bytes_by_token(tokenizer)
    except ConfigError:
        return None
    batches = (objective.eval_batch([row]) for source in sources for row in source)
    return sum(int(lengths_V[batch.labels_K].sum()) for batch in batches)


def bytes_by_token(tokenizer: TokenizerFiles) -> NDArray[np.int64]:
    """Return the number of bytes of text that each token id encodes [V]; 0 for special tokens.

    Raises:
        ConfigError: the tokenizer is not a byte-level BPE.
    """
    return np.array([len(encoded or b"") for encoded in token_bytes(tokenizer, "bits per byte")], dtype=np.int64)


def bits_per_byte(loss_sum: float, scored_bytes: int | None) -> float | None:
    """Return the loss in bits per byte of text; None if the number of bytes is unknown or 0.

    The loss of special tokens, which end a document, counts although they encode no bytes: predicting the end of a
    text is part of encoding it.
    """
    return loss_sum / math.log(2) / scored_bytes if scored_bytes else None
