"""The loss on documents that training never sees."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ettin.data.evaluation import EvaluationRows
from megatron_ettin.data.rows import Row
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.train.build import Training
from megatron_ettin.train.results import Sums
from megatron_ettin.train.step import evaluate_batches

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
    ranks, micro_batch = training.ranks, training.run.training.micro_batch_size
    end = min(num_rows, len(rows))
    rows_per_pass = _BATCHES_AT_A_TIME * micro_batch * ranks.dp_size
    total = Sums(0.0, 0, 0, 0)
    for start in range(0, end, rows_per_pass):
        here = range(start + ranks.dp_rank, min(start + rows_per_pass, end), ranks.dp_size)
        chunks = [here[i : i + micro_batch] for i in range(0, len(here), micro_batch)]
        batches = [objective.eval_batch([rows[number] for number in chunk]) for chunk in chunks]
        total += evaluate_batches(training, batches)
    return total
