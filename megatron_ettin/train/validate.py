"""The loss on documents that training never sees."""

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
"""Micro-batches built before they are scored: bounds memory on a large split."""


def validate_sources(
    training: Training, objective: Objective, sources: Sequence[EvaluationRows], limit: int
) -> tuple[Sums, dict[str, Sums]]:
    """Score each source by itself; return the sums of all, and where there are several, of each by its name.

    Args:
        training: the model.
        objective: builds and scores batches.
        sources: rows of each.
        limit: rows to score at most, shared by size; 0 takes all.
    """
    rows = sum(map(len, sources))
    wanted = min(limit, rows) or rows
    found = [validate(training, objective, source, -(-wanted * len(source) // rows)) for source in sources]
    total = sum(found, Sums(0.0, 0, 0, 0))
    return total, {rows.name: own for rows, own in zip(sources, found, strict=True)} if len(found) > 1 else {}


def validate(training: Training, objective: Objective, rows: Sequence[Row], num_rows: int) -> Sums:
    """Score the first ``num_rows`` rows once each, spread over the data-parallel ranks.

    Weights, optimizer and random states stay as they are. Every rank makes the same number of passes, each with what
    rows it has; the sums are those of all ranks, and do not depend on how the rows were spread or batched.
    """
    ranks, micro_batch = training.ranks, training.config.training.micro_batch_size
    end = min(num_rows, len(rows))
    rows_per_pass = _BATCHES_AT_A_TIME * micro_batch * ranks.dp_size
    total = Sums(0.0, 0, 0, 0)
    for start in range(0, end, rows_per_pass):
        here = range(start + ranks.dp_rank, min(start + rows_per_pass, end), ranks.dp_size)
        chunks = [here[i : i + micro_batch] for i in range(0, len(here), micro_batch)]
        batches = [objective.eval_batch([rows[number] for number in chunk]) for chunk in chunks]
        total += evaluate_batches(training, batches)
    return total


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
