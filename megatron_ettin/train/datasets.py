"""The corpora of a run, split, packed into rows and assigned to steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from megatron_ettin.checkpoint.folder.state import TrainingState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sources import SourceRequest, source_names
from megatron_ettin.config.value_types import format_token_count, plain_value
from megatron_ettin.data.batch import PackedBatch
from megatron_ettin.data.batch_plan import BatchRule, StepPlan
from megatron_ettin.data.chunk_lengths import ChunkRule, Dropped
from megatron_ettin.data.corpus.indexed import IndexedTokens, all_documents_closed
from megatron_ettin.data.corpus.token_bytes import sentence_ends
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import ROW_SETTINGS
from megatron_ettin.data.index_cache import IndexCache
from megatron_ettin.data.rows import EvaluationRows, RowDataset, evaluation_rows
from megatron_ettin.data.splits import Documents, split_corpus
from megatron_ettin.data.training_rows import Realised, TrainingRows
from megatron_ettin.data.validation_set import ValidationSet, sample_documents, share_limit, stored_tokens
from megatron_ettin.objectives.objective import Objective
from megatron_ettin.runtime.ranks import Ranks


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and validates on."""

    objective: Objective
    rows: TrainingRows
    plan: StepPlan
    """The rows of each step."""
    validation_rows: tuple[EvaluationRows, ...]
    """Of each source."""

    @cached_property
    def validation_set(self) -> ValidationSet:
        """The documents of the validation rows."""
        return ValidationSet.of_sources(rows.documents() for rows in self.validation_rows)

    def batches(self, step: int, ranks: Ranks) -> list[PackedBatch]:
        """Build a rank's micro-batches of a step (0-based); they depend on nothing that was trained before."""
        tokens_before = max(0, self.plan.of(step).tokens_before)
        return [
            replace(
                self.objective.train_batch(self.rows.rows(part.start, part.stop), part, tokens_before),
                num_rows=len(part),
            )
            for part in self.plan.micro_batches(step, ranks.dp_rank, ranks.dp_size)
        ]


def build_training_data(
    config: RunConfig, tokenizer: TokenizerFiles, objective: Objective, state: TrainingState | None = None
) -> TrainingData:
    """Open the corpora and plan the steps that follow a state, or all steps."""
    state = state or TrainingState()
    corpus = open_corpus(config)
    rows = build_training_rows(config, corpus, tokenizer)
    if state.source_rows:
        rows.blend.start_at(state.consumed_samples, state.source_rows)
    plan = StepPlan(
        batch_rule(config, close_every_chunk=objective.close_every_chunk),
        rows,
        step=state.step,
        sample=state.consumed_samples,
        tokens=state.consumed_tokens,
        counts_tokens=bool(config.data.mlm_probability_schedule),
    )
    limit = 0 if first_validation_rows(config) else validation_limit(config)
    return TrainingData(objective, rows, plan, build_validation_rows(config, corpus, tokenizer, limit))


@dataclass(frozen=True)
class Source:
    """One corpus of a run."""

    request: SourceRequest
    tokens: IndexedTokens
    documents: dict[str, Documents]
    """Of each split, by the name of the split."""


def open_corpus(config: RunConfig) -> tuple[Source, ...]:
    """Open and split the corpora that ``--data-path`` names."""
    data, sources = config.data, []
    for request in data.data_path.requests:
        tokens = IndexedTokens(request.path)
        splits = split_corpus(tokens.num_documents, data.split, data.split_by, request.path)
        sources.append(Source(request, tokens, splits))
    return tuple(sources)


def build_training_rows(config: RunConfig, corpus: Sequence[Source], tokenizer: TokenizerFiles) -> TrainingRows:
    """Chunk, pack and blend the training splits."""
    rule = chunk_rule(config, tokenizer)
    # The split may leave a very small source without documents.
    filled = [(number, source) for number, source in enumerate(corpus) if len(source.documents["training"])]
    rows = [_source_rows(config, source, tokenizer, rule, number) for number, source in filled]
    return TrainingRows([source.request for _, source in filled], rows)


def build_validation_rows(
    config: RunConfig, corpus: Sequence[Source], tokenizer: TokenizerFiles, limit: int = 0
) -> tuple[EvaluationRows, ...]:
    """Chunk and pack the validation split of each source, or a sample of its documents.

    Args:
        config: of the run.
        corpus: its sources.
        tokenizer: of the run.
        limit: tokens of the sample, shared between the sources in proportion to their splits; 0 takes all documents.
    """
    validation_rows = []
    names = source_names({number: source.request.path for number, source in enumerate(corpus)})
    splits = [source.documents["validation"] for source in corpus]
    limits = [0] * len(corpus)
    if limit:
        sizes = [stored_tokens(source.tokens, split) for source, split in zip(corpus, splits, strict=True)]
        limits = share_limit(limit, sizes)
    end_tokens = tokenizer.end_tokens
    for number, (source, split, limit_here) in enumerate(zip(corpus, splits, limits, strict=True)):
        documents = sample_documents(source.tokens, split, end_tokens, limit_here) if limit_here else split
        if len(documents):
            rows = evaluation_rows(source.tokens, documents, config.data.seq_length, sep_id=end_tokens, source=number)
            rows.name = names[number]
            validation_rows.append(rows)
    return tuple(validation_rows)


def validation_limit(config: RunConfig) -> int:
    """Return the maximum tokens of a validation: ``--eval-tokens``, or the positions of ``--eval-iters``; 0 is all."""
    training = config.training
    positions = training.global_batch_tokens or training.global_batch_size * config.data.seq_length
    return training.eval_tokens or training.eval_iters * positions


def first_validation_rows(config: RunConfig) -> int:
    """Return how many packed rows a run of ``--data-version 1`` validates on, the first ones; 0 is all."""
    training = config.training
    if config.data.data_version > 1:
        return 0
    return training.eval_iters * (training.global_batch_tokens // config.data.seq_length or training.global_batch_size)


def chunk_rule(config: RunConfig, tokenizer: TokenizerFiles) -> ChunkRule:
    """Return how documents are chunked.

    Raises:
        ConfigError: ``--chunk-at-sentences`` with a tokenizer that does not reveal where sentences end.
    """
    data = config.data
    ends = sentence_ends(tokenizer, "--chunk-at-sentences") if data.chunk_at_sentences else None
    return ChunkRule(
        data.chunk_size, data.chunk_min_size, data.chunk_skip_size, ends, close_shortened=data.data_version < 2
    )


def batch_rule(config: RunConfig, *, close_every_chunk: bool) -> BatchRule:
    """Return the sizes of steps and micro-batches."""
    training = config.training
    micro = training.micro_batch_size
    if training.global_batch_tokens:
        micro = training.micro_batch_tokens or micro * config.data.seq_length
    return BatchRule(
        rows=training.global_batch_size,
        micro_rows=training.micro_batch_size,
        tokens=training.global_batch_tokens,
        micro_tokens=training.micro_batch_tokens,
        first_size=training.batch_warmup_start or micro,
        warmup_tokens=training.batch_warmup_tokens,
        close_every_chunk=close_every_chunk,
    )


def row_notes(rows: TrainingRows) -> list[str]:
    """Return the number and fill rate of the rows and what chunking dropped, one line each."""
    dropped = sum((source.dropped for source in rows.sources), Dropped())
    notes = [f"{rows.num_rows:,} rows in an epoch, {rows.fill_rate:.2%} filled"]
    if dropped.chunks:
        lost = f"{dropped.chunks:,} short last chunks, {dropped.tokens:,} tokens ({dropped.share:.2%})"
        notes.append(f"chunking dropped {lost}")
    return notes


def blend_notes(training_rows: TrainingRows, samples: int, *, close_every_chunk: bool) -> list[str]:
    """Return the requested and actual share of each source, one line each; empty for a single source."""
    if len(training_rows.sources) < 2:
        return []
    realised = training_rows.realised(samples, close_every_chunk=close_every_chunk)
    rows, tokens = (max(1, sum(getattr(each, name) for each in realised)) for name in ("rows", "tokens"))
    return [
        f"{each.name}: requested {_requested(each)}, gave {each.rows:,} ({each.rows / rows:.4%}), "
        f"{format_token_count(each.tokens)} tokens ({each.tokens / tokens:.2%}), {each.epochs:.2f} epochs"
        for each in realised
    ]


def _requested(each: Realised) -> str:
    share = f"{each.requested:.4%} of the rows"
    if each.requested_tokens is None:
        return share
    return f"{format_token_count(each.requested_tokens)} tokens, {share}"


def _source_rows(
    config: RunConfig, source: Source, tokenizer: TokenizerFiles, rule: ChunkRule, number: int
) -> RowDataset:
    path, data = source.request.path, config.data
    cache = None
    if data.data_cache_path or source.tokens.is_large:
        facts = {name: plain_value(getattr(data, name)) for name in ROW_SETTINGS}
        facts["close_shortened"] = rule.close_shortened
        facts["sentences"] = tokenizer.fingerprint if data.chunk_at_sentences else ""
        cache = IndexCache.of_corpus(path, data.data_cache_path).with_facts(**facts, sep_id=tokenizer.end_tokens)
    return RowDataset(
        source.tokens,
        source.documents["training"],
        data.seq_length,
        sep_id=tokenizer.end_tokens,
        seed=config.training.seed,
        packing=data.packing,
        rule=rule,
        source=number,
        all_closed=partial(all_documents_closed, source.tokens, path, tokenizer.end_tokens),
        cache=cache,
    )
