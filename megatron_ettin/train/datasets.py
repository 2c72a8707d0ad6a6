"""The corpora of a run, opened and split, and what they are made into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sources import SourceRequest, source_names
from megatron_ettin.config.value_types import format_token_count, plain_value
from megatron_ettin.data.batch_plan import BatchRule
from megatron_ettin.data.chunk_lengths import ChunkRule, Dropped
from megatron_ettin.data.corpus.indexed import IndexedTokens, all_documents_closed
from megatron_ettin.data.corpus.token_bytes import sentence_ends
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles
from megatron_ettin.data.fingerprint import ROW_SETTINGS
from megatron_ettin.data.index_cache import IndexCache
from megatron_ettin.data.rows import EvaluationRows, RowDataset, evaluation_rows
from megatron_ettin.data.splits import Documents, split_corpus
from megatron_ettin.data.training_rows import Realised, TrainingRows


@dataclass(frozen=True)
class Source:
    """One corpus of a run."""

    request: SourceRequest
    tokens: IndexedTokens
    documents: dict[str, Documents]
    """Of each split, by its name."""


def open_corpus(config: RunConfig) -> tuple[Source, ...]:
    """Open what ``--data-path`` names and split it."""
    return tuple(_open_source(config, request) for request in config.data.data_path.requests)


def _open_source(config: RunConfig, request: SourceRequest) -> Source:
    tokens = IndexedTokens(request.path)
    data = config.data
    return Source(request, tokens, split_corpus(tokens.num_documents, data.split, data.split_by, request.path))


def build_training_rows(config: RunConfig, corpus: Sequence[Source], tokenizer: TokenizerFiles) -> TrainingRows:
    """Cut, pack and blend the training splits."""
    rule = chunk_rule(config, tokenizer)
    # A source may be so small that the split leaves it nothing.
    filled = [(number, source) for number, source in enumerate(corpus) if len(source.documents["training"])]
    rows = [_source_rows(config, source, tokenizer, rule, number) for number, source in filled]
    return TrainingRows([source.request for _, source in filled], rows)


def build_validation_rows(
    config: RunConfig, corpus: Sequence[Source], tokenizer: TokenizerFiles
) -> tuple[EvaluationRows, ...]:
    """Cut and pack the validation split of each source."""
    found = []
    names = source_names({number: source.request.path for number, source in enumerate(corpus)})
    for number, source in enumerate(corpus):
        documents = source.documents["validation"]
        if len(documents):
            rows = evaluation_rows(
                source.tokens, documents, config.data.seq_length, sep_id=tokenizer.sep_id, source=number
            )
            rows.name = names[number]
            found.append(rows)
    return tuple(found)


def chunk_rule(config: RunConfig, tokenizer: TokenizerFiles) -> ChunkRule:
    """Return how long documents are cut.

    Raises:
        ConfigError: sentence ends are asked for, and the tokenizer does not tell them.
    """
    data = config.data
    ends = sentence_ends(tokenizer, "--chunk-at-sentences") if data.chunk_at_sentences else None
    return ChunkRule(
        data.chunk_size, data.chunk_min_size, data.chunk_skip_size, ends, close_shortened=data.data_version < 2
    )


def batch_rule(config: RunConfig, *, close_every_chunk: bool) -> BatchRule:
    """Return how large steps and micro-batches are."""
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
    """Return what became of the documents, a line each."""
    dropped = sum((source.dropped for source in rows.sources), Dropped())
    notes = [f"{rows.num_rows:,} rows in an epoch, {rows.fill_rate:.2%} filled"]
    if dropped.chunks:
        lost = f"{dropped.chunks:,} short last chunks, {dropped.tokens:,} tokens ({dropped.share:.2%})"
        notes.append(f"chunking dropped {lost}")
    return notes


def blend_notes(training: TrainingRows, samples: int, close_every_chunk: bool) -> list[str]:
    """Return what each source was asked for and has given, a line each; nothing where there is one source."""
    if len(training.sources) < 2:
        return []
    realised = training.realised(samples, close_every_chunk=close_every_chunk)
    rows, tokens = (max(1, sum(getattr(each, name) for each in realised)) for name in ("rows", "tokens"))
    return [
        f"{each.name}: asked for {_asked(each)}, gave {each.rows:,} ({each.rows / rows:.4%}), "
        f"{format_token_count(each.tokens)} tokens ({each.tokens / tokens:.2%}), {each.epochs:.2f} epochs"
        for each in realised
    ]


def _asked(each: Realised) -> str:
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
        cache = IndexCache.of_corpus(path, data.data_cache_path).with_facts(**facts, sep_id=tokenizer.sep_id)
    return RowDataset(
        source.tokens,
        source.documents["training"],
        data.seq_length,
        sep_id=tokenizer.sep_id,
        seed=config.training.seed,
        packing=data.packing,
        rule=rule,
        source=number,
        all_closed=partial(all_documents_closed, source.tokens, path, tokenizer.sep_id),
        cache=cache,
    )
