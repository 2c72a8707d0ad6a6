"""Rules between the settings of a run, checked before any file is opened or process group created."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.objectives import names_of
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig, refuse, run_options, spell, value_of
from megatron_ettin.config.time_units import check_schedule, check_time_units
from megatron_ettin.errors import ConfigError

_NEEDED_TO_TRAIN = ("data_path", "tokenizer_model", "save")
_NEEDED_TO_EVALUATE = ("data_path", "tokenizer_model")

_FP8_MULTIPLE = 16
"""Sides of an FP8 product are multiples of this (Transformer Engine's requirement)."""


def check_run(config: RunConfig, world_size: int, *, planning: bool = False) -> None:
    """Refuse a run that cannot work.

    Args:
        config: the resolved run.
        world_size: ranks over all nodes.
        planning: nothing will be trained, so corpus, tokenizer, folders and duration may be missing.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    check_values(config)
    check_shape(config)
    check_layout(config, world_size)
    check_batches(config, world_size)
    check_time_units(config)
    check_schedule(config)
    check_optimizer(config)
    check_backend(config)
    check_checkpoints(config)
    check_data(config)
    check_completeness(config, planning=planning)


def check_values(config: RunConfig) -> None:
    """Check each field on its own: a config from a checkpoint has not been parsed from flags."""
    for option in run_options().values():
        value = value_of(config, option.name)
        rule = option.broken_rule(value)
        if rule is not None:
            raise ConfigError(f"{option.spell(value)}: {rule}")


def check_shape(config: RunConfig) -> None:
    """The heads divide the hidden size into even widths; the window has two halves."""
    model = config.model
    heads = spell(config, "num_attention_heads")
    if model.hidden_size % model.num_attention_heads:
        refuse(config, "hidden_size", f"must be a multiple of {heads}")
    if model.head_size % 2:
        refuse(config, "hidden_size", f"with {heads} gives heads of {model.head_size}, which RoPE needs to be even")
    if model.sliding_window % 2:
        refuse(config, "sliding_window", "must be even: half of it is on each side")


def check_layout(config: RunConfig, world_size: int) -> None:
    """Tensor and pipeline parallelism fit the shape and the world size."""
    model, parallel = config.model, config.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    tp_flag, pp_flag = spell(config, "tensor_model_parallel_size"), spell(config, "pipeline_model_parallel_size")
    for name in ("num_attention_heads", "ffn_hidden_size"):
        if getattr(model, name) % tp:
            refuse(config, name, f"must be a multiple of {tp_flag}")
    if pp > model.num_layers:
        raise ConfigError(f"{pp_flag}: each stage needs a layer, but there are only {spell(config, 'num_layers')}")
    if world_size % (tp * pp):
        raise ConfigError(
            f"{tp_flag} {pp_flag}: one model takes {tp * pp} ranks, and the world size (torchrun's --nproc-per-node "
            f"times --nnodes), {world_size}, is not a multiple of that"
        )
    if parallel.sequence_parallel and tp == 1:
        refuse(config, "sequence_parallel", f"needs 2 or more tensor-parallel ranks; got {tp_flag}")
    if parallel.overlap_param_gather and not (parallel.overlap_grad_reduce and parallel.use_distributed_optimizer):
        refuse(config, "overlap_param_gather", "needs --use-distributed-optimizer and --overlap-grad-reduce")


def check_batches(config: RunConfig, world_size: int) -> None:
    """Batches in tokens contain a row, and a batch of rows is a multiple of the micro-batches of all ranks.

    Evaluation has no global batch. Where micro-batch sizes vary, ranks that would lack one get one without rows.
    """
    training = config.training
    for name in ("global_batch_tokens", "micro_batch_tokens"):
        if 0 < getattr(training, name) < config.data.seq_length:
            refuse(config, name, f"must be at least one row, {spell(config, 'seq_length')}")
    size = training.global_batch_tokens or training.global_batch_size
    if training.batch_warmup_start and not training.batch_warmup_tokens:
        refuse(config, "batch_warmup_start", "needs --batch-warmup-tokens")
    if training.batch_warmup_start > size:
        refuse(config, "batch_warmup_start", f"must be at most the full batch, {size}")
    varies = training.global_batch_tokens or training.micro_batch_tokens or training.batch_warmup_tokens
    if training.eval_only or varies:
        return
    dp = data_parallel_size(config.parallel, world_size)
    micro = training.micro_batch_size
    if training.global_batch_size % (micro * dp):
        rows = f"{spell(config, 'micro_batch_size')} x {dp} data-parallel ranks = {micro * dp} rows"
        refuse(config, "global_batch_size", f"must be a multiple of {rows}")


def check_optimizer(config: RunConfig) -> None:
    """The optimizer has its settings and computes the same in every layout."""
    optimizer, parallel = config.optimizer, config.parallel
    if optimizer.min_lr > optimizer.lr:
        refuse(config, "min_lr", f"must not exceed the peak, {spell(config, 'lr')}")
    if optimizer.optimizer == "stable_adamw" and not (optimizer.max_lr or optimizer.lr):
        refuse(config, "lr", "must be above 0 with --optimizer stable_adamw, whose weight decay is relative to it")
    if optimizer.max_lr and optimizer.optimizer != "stable_adamw":
        refuse(config, "max_lr", f"needs --optimizer stable_adamw; got {spell(config, 'optimizer')}")
    if optimizer.optimizer != "muon":
        return
    if parallel.tensor_model_parallel_size > 1:
        split = spell(config, "tensor_model_parallel_size")
        refuse(config, "optimizer", f"needs full matrices, and {split} splits them; use data or pipeline parallelism")
    if parallel.use_distributed_optimizer:
        refuse(config, "optimizer", "needs full matrices, and --use-distributed-optimizer splits them; omit it")


def check_backend(config: RunConfig) -> None:
    """Kernels, precision and recomputation fit each other and the shape."""
    backend = config.backend
    if config.training.device == "cpu" and backend.transformer_impl == TRANSFORMER_ENGINE:
        refuse(config, "transformer_impl", "needs a CUDA device; got --device cpu")
    if backend.recompute_num_layers and backend.recompute_granularity != "full":
        refuse(config, "recompute_num_layers", "needs --recompute-granularity full")
    if backend.fp8_format:
        _check_fp8(config)
        return
    if backend.first_last_layers_bf16:
        refuse(config, "first_last_layers_bf16", "needs --fp8-format")


def _check_fp8(config: RunConfig) -> None:
    backend = config.backend
    if backend.transformer_impl == "local":
        refuse(config, "fp8_format", f"needs Transformer Engine's layers; got {spell(config, 'transformer_impl')}")
    if not config.training.bf16:
        refuse(config, "fp8_format", "needs --bf16, the precision of everything outside the FP8 products")
    if backend.first_last_layers_bf16 and backend.fp8_recipe == "delayed":
        refuse(config, "first_last_layers_bf16", f"needs another recipe than {spell(config, 'fp8_recipe')}")
    multiple = _FP8_MULTIPLE * config.parallel.tensor_model_parallel_size
    for name in ("hidden_size", "ffn_hidden_size"):
        if getattr(config.model, name) % multiple:
            split = spell(config, "tensor_model_parallel_size")
            rule = f"must be a multiple of {multiple}, {_FP8_MULTIPLE} on each tensor-parallel rank; got {split}"
            refuse(config, name, f"with {spell(config, 'fp8_format')} {rule}")


def check_checkpoints(config: RunConfig) -> None:
    """Settings of loading and retention come with the flag that they refine."""
    places = config.checkpoint
    for name in ("load_step", "load_fallback"):
        if getattr(places, name) and not places.load:
            refuse(config, name, "needs --load, the folder of the checkpoint")
    parent = places.pretrained_checkpoint
    if parent and (not places.load or Path(places.load) not in (Path(parent), Path(places.save))):
        refuse(config, "pretrained_checkpoint", "needs --load with the folder of --save, which it replaces at first")
    for name in ("save_retain_interval", "save_retain_interval_tokens"):
        if getattr(places, name) and not places.keep_last_checkpoints:
            refuse(config, name, "needs --keep-last-checkpoints, without which no checkpoint is deleted")


def check_data(config: RunConfig) -> None:
    """Chunks fit rows, and masked spans fit the share of masked tokens."""
    data = config.data
    size = data.chunk_size or data.seq_length
    if data.chunk_size and not 8 <= data.chunk_size <= data.seq_length:
        refuse(config, "chunk_size", f"must be 8 to {spell(config, 'seq_length')}: a chunk fits in a row")
    if 2 * data.chunk_min_size > size:
        refuse(config, "chunk_min_size", f"must be at most half a chunk of {size} positions")
    if data.chunk_skip_size > size:
        refuse(config, "chunk_skip_size", f"must be at most a chunk, {size} positions")
    largest = max(data.largest_mask_ratio, data.eval_mlm_probability)
    # Spans are at least one token apart, so at most span / (span + 1) of the tokens can be masked.
    most = data.mask_span_length / (data.mask_span_length + 1)
    if data.masking == "span" and largest > most:
        refuse(config, "mask_span_length", f"leaves no room to mask {largest:g} of the tokens; at most {most:.3g}")


def check_completeness(config: RunConfig, *, planning: bool) -> None:
    """All settings without a default are given, and the run has documents and steps."""
    training = config.training
    if not training.objective:
        raise ConfigError(
            f"--objective is missing: {names_of('encoder')} trains an encoder, {names_of('decoder')} a decoder"
        )
    if training.eval_only and not config.checkpoint.load:
        raise ConfigError("--eval-only needs --load, the checkpoint to measure")
    if planning:
        return
    for name in _NEEDED_TO_EVALUATE if training.eval_only else _NEEDED_TO_TRAIN:
        option = run_options()[name]
        if not value_of(config, name):
            raise ConfigError(f"{option.flag} is missing: {option.help}")
    if not training.eval_only and not (training.train_iters or training.train_tokens):
        raise ConfigError("--train-iters is missing: steps to train; or --train-tokens, real tokens to train")
    if training.eval_only and config.data.split.parts[1] == 0:
        refuse(config, "split", "the validation part is 0, but --eval-only measures it")
    if not training.eval_only and config.data.split.parts[0] == 0:
        refuse(config, "split", "the training part is 0")
