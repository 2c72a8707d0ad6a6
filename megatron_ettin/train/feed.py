"""Micro-batches in training order, built while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.evaluation import EvaluationRows, evaluation_rows
from megatron_ettin.data.indexed import IndexedTokens
from megatron_ettin.data.order import micro_batch_samples
from megatron_ettin.data.rows import RowDataset
from megatron_ettin.data.splits import split_documents
from megatron_ettin.data.tokenizer import TokenizerFiles
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.runtime.groups import Ranks


@dataclass(frozen=True)
class Corpus:
    """The documents of a run, split."""

    tokens: IndexedTokens
    training: range
    validation: range


def open_corpus(run: RunConfig) -> Corpus:
    """Open ``--data-path`` and split it."""
    tokens = IndexedTokens(run.data.data_path)
    training, validation, _ = split_documents(tokens.num_documents, run.data.split)
    return Corpus(tokens, training, validation)


def build_training_rows(run: RunConfig, corpus: Corpus, tokenizer: TokenizerFiles) -> RowDataset:
    """Cut and pack the training split."""
    return RowDataset(
        corpus.tokens,
        corpus.training,
        run.data.seq_length,
        sep_id=tokenizer.sep_id,
        seed=run.training.seed,
        packing=run.data.packing,
    )


def build_validation_rows(run: RunConfig, corpus: Corpus, tokenizer: TokenizerFiles) -> EvaluationRows:
    """Cut and pack the validation split."""
    return evaluation_rows(corpus.tokens, corpus.validation, run.data.seq_length, sep_id=tokenizer.sep_id)


def step_batches(run: RunConfig, rows: RowDataset, objective: Objective, ranks: Ranks, step: int) -> list[PackedBatch]:
    """Build this rank's micro-batches of one step: a function of the step, whatever was trained before."""
    samples = micro_batch_samples(
        step,
        global_batch_size=run.training.global_batch_size,
        micro_batch_size=run.training.micro_batch_size,
        data_parallel_rank=ranks.dp_rank,
        data_parallel_size=ranks.dp_size,
    )
    return [objective.train_batch([rows.row(sample) for sample in batch], batch) for batch in samples]


@contextmanager
def build_ahead(
    build: Callable[[int], list[PackedBatch]], steps: range
) -> Iterator[Callable[[int], list[PackedBatch]]]:
    """Hand out ``build`` for the given steps, asked for in order, with the next step built in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as thread:
        pending: dict[int, Future[list[PackedBatch]]] = {}

        def batches_of(step: int) -> list[PackedBatch]:
            ready = pending.pop(step, None) or thread.submit(build, step)
            if step + 1 in steps:
                pending[step + 1] = thread.submit(build, step + 1)
            return ready.result()

        yield batches_of
