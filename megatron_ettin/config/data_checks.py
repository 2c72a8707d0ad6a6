"""What must hold between the settings that turn documents into batches."""

from __future__ import annotations

from megatron_ettin.config.fields import refuse, spell
from megatron_ettin.config.mask_schedule import largest_mask_ratio, parse_mask_schedule
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sources import parse_sources


def check_data(run: RunConfig) -> None:
    """Sources, chunks, masking and batches in tokens.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    parse_sources(run.data.data_path)
    _check_chunks(run)
    _check_masking(run)
    _check_token_batches(run)


def _check_chunks(run: RunConfig) -> None:
    data = run.data
    size = data.chunk_size or data.seq_length
    if data.chunk_size and not 8 <= data.chunk_size <= data.seq_length:
        refuse(run, "chunk_size", f"must be 8 to {spell(run, 'seq_length')}: a piece fits a row")
    if 2 * data.chunk_min_size > size:
        refuse(run, "chunk_min_size", f"must be at most half a piece of {size} positions, which gives from its end")
    if data.chunk_skip_size > size:
        refuse(run, "chunk_skip_size", f"must be at most a piece, {size} positions")


def _check_masking(run: RunConfig) -> None:
    data = run.data
    if data.mlm_probability_schedule:
        parse_mask_schedule(data.mlm_probability_schedule)
    largest = max(largest_mask_ratio(data), data.eval_mlm_probability)
    # Spans are at least a token apart: no more can be masked than a mean span and one.
    most = data.mask_span_length / (data.mask_span_length + 1)
    if data.masking == "span" and largest > most:
        refuse(run, "mask_span_length", f"leaves no room to mask {largest:g} of the tokens; at most {most:.3g}")


def _check_token_batches(run: RunConfig) -> None:
    training = run.training
    size = training.global_batch_tokens or training.global_batch_size
    if 0 < training.global_batch_tokens < run.data.seq_length:
        refuse(run, "global_batch_tokens", f"must hold a row of {spell(run, 'seq_length')}")
    if 0 < training.micro_batch_tokens < run.data.seq_length:
        refuse(run, "micro_batch_tokens", f"must hold a row of {spell(run, 'seq_length')}")
    if training.batch_warmup_start and not training.batch_warmup_tokens:
        refuse(run, "batch_warmup_start", "belongs to --batch-warmup-tokens")
    if training.batch_warmup_start > size:
        refuse(run, "batch_warmup_start", f"must be at most the full batch, {size}")
