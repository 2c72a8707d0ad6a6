"""What must hold between the sections of a run, before any file is opened or process group built."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.config.backend import TRANSFORMER_ENGINE
from megatron_ettin.config.fields import refuse, run_options, spell, value_of
from megatron_ettin.config.objectives import names_of
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.time_units import (
    IN_TOKENS,
    SCHEDULE_LENGTHS,
    Unit,
    needs_end,
    schedule_end,
    schedule_unit,
)
from megatron_ettin.errors import ConfigError

_NEEDED_TO_TRAIN = ("data_path", "tokenizer_model", "save")
_NEEDED_TO_EVALUATE = ("data_path", "tokenizer_model")


def check_run(config: RunConfig, world_size: int, *, planning: bool = False) -> None:
    """Refuse a run that cannot work.

    Args:
        config: the resolved run.
        world_size: ranks over all nodes.
        planning: nothing will be trained, so corpus, tokenizer, folders and duration may be missing.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    check_ranges(config)
    check_supported(config)
    check_shape(config)
    check_layout(config, world_size)
    check_batches(config, world_size)
    check_time_units(config)
    check_schedule(config)
    check_optimizer(config)
    check_backend(config)
    check_profile(config)
    check_checkpoints(config)
    check_data(config)
    check_completeness(config, planning=planning)


def check_ranges(config: RunConfig) -> None:
    """Every field by itself: choices and bounds. A run that was read from a checkpoint has not passed the flags."""
    for option in run_options().values():
        value = value_of(config, option.name)
        rule = option.broken_rule(value)
        if rule is not None:
            raise ConfigError(f"{option.spell(value)}: {rule}")


def check_supported(config: RunConfig) -> None:
    """Parallelism that Megatron has and this trainer has not, by name."""
    parallel = config.parallel
    if parallel.context_parallel_size != 1:
        refuse(config, "context_parallel_size", "context parallelism is not supported; leave it at 1")
    if parallel.num_layers_per_virtual_pipeline_stage != 0:
        name = "num_layers_per_virtual_pipeline_stage"
        refuse(config, name, "the interleaved pipeline is not supported; leave it at 0")
    if parallel.use_torch_fsdp2:
        refuse(config, "use_torch_fsdp2", "FSDP is not supported; --use-distributed-optimizer shards optimizer state")


def check_shape(config: RunConfig) -> None:
    """Heads split the hidden size into even parts; the window has two halves."""
    model = config.model
    if model.hidden_size % model.num_attention_heads:
        heads = spell(config, "num_attention_heads")
        refuse(config, "hidden_size", f"cannot be split over {heads}: the heads must share it evenly")
    if model.head_size % 2:
        heads = spell(config, "num_attention_heads")
        refuse(
            config, "hidden_size", f"with {heads} makes heads of {model.head_size}: RoPE turns pairs, it must be even"
        )
    if model.sliding_window % 2:
        refuse(config, "sliding_window", "must be even: half of it lies to each side")


def check_layout(config: RunConfig, world_size: int) -> None:
    """Tensor and pipeline parallelism fit the shape and the world."""
    model, parallel = config.model, config.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    tp_flag, pp_flag = spell(config, "tensor_model_parallel_size"), spell(config, "pipeline_model_parallel_size")
    for name in ("num_attention_heads", "ffn_hidden_size"):
        if getattr(model, name) % tp:
            refuse(config, name, f"cannot be split over {tp_flag}")
    if pp > model.num_layers:
        raise ConfigError(f"{pp_flag}: each stage needs a layer, but there are only {spell(config, 'num_layers')}")
    if world_size % (tp * pp):
        raise ConfigError(
            f"{tp_flag} {pp_flag}: one model takes {tp * pp} ranks, and the world (torchrun's --nproc-per-node times "
            f"--nnodes) has {world_size}, which is no multiple of that"
        )
    if parallel.sequence_parallel and tp == 1:
        refuse(config, "sequence_parallel", f"splits over the tensor-parallel ranks and needs 2 or more; got {tp_flag}")


def check_batches(config: RunConfig, world_size: int) -> None:
    """The global batch is a whole number of micro-batches on every data-parallel rank; evaluation has no such batch.

    Where micro-batches vary, ranks that come out short get one without rows.
    """
    training = config.training
    varies = training.global_batch_tokens or training.micro_batch_tokens or training.batch_warmup_tokens
    if training.eval_only or varies:
        return
    dp = data_parallel_size(config.parallel, world_size)
    micro = config.training.micro_batch_size
    if config.training.global_batch_size % (micro * dp):
        rows = f"{spell(config, 'micro_batch_size')} x {dp} data-parallel ranks = {micro * dp} rows"
        refuse(config, "global_batch_size", f"is no multiple of {rows}")


def check_schedule(config: RunConfig) -> None:
    """Warm-up, plateau and decay follow each other."""
    optimizer = config.optimizer
    if optimizer.min_lr > optimizer.lr:
        refuse(config, "min_lr", f"must not exceed the peak, {spell(config, 'lr')}")
    unit = schedule_unit(optimizer, config.training)
    warmup_name, decay_name = f"lr_warmup_{unit}", f"lr_wsd_decay_{unit}"
    warmup, decay = getattr(optimizer, warmup_name), getattr(optimizer, decay_name)
    if decay and optimizer.lr_decay_style != "WSD":
        refuse(config, decay_name, f"belongs to --lr-decay-style WSD; got {spell(config, 'lr_decay_style')}")
    end = schedule_end(optimizer, config.training)
    end_name = f"lr_decay_{unit}" if getattr(optimizer, f"lr_decay_{unit}") else f"train_{unit}"
    if end == 0:
        _refuse_endless(config, unit)
        return
    if warmup > end:
        refuse(config, warmup_name, f"must not be longer than the schedule, {spell(config, end_name)}")
    if warmup + decay > end:
        together = f"and {spell(config, warmup_name)} together must not be longer than the schedule"
        refuse(config, decay_name, f"{together}, {spell(config, end_name)}")


def _refuse_endless(config: RunConfig, unit: Unit) -> None:
    """A schedule that needs its end and counts in another unit than the run, which therefore does not tell it."""
    if needs_end(config.optimizer, unit) and (config.training.train_iters or config.training.train_tokens):
        duration = "train_tokens" if config.training.train_tokens else "train_iters"
        lengths = ", ".join(f"{run_options()[f'{length}_{unit}'].flag}" for length in SCHEDULE_LENGTHS)
        refuse(config, duration, f"does not tell when a schedule ends that counts otherwise ({lengths}); give its end")


def check_time_units(config: RunConfig) -> None:
    """Each length is given in steps or in tokens, and the schedule's lengths all in the same."""
    for in_steps, in_tokens in IN_TOKENS.items():
        if value_of(config, in_steps) and value_of(config, in_tokens):
            refuse(config, in_tokens, f"and {spell(config, in_steps)} say the same thing; give one of them")
    unit = schedule_unit(config.optimizer, config.training)
    if unit == "tokens":
        for length in SCHEDULE_LENGTHS:
            if value_of(config, f"{length}_iters"):
                tokens = [name for name in SCHEDULE_LENGTHS if value_of(config, f"{name}_tokens")]
                other = spell(config, f"{tokens[0]}_tokens")
                refuse(
                    config, f"{length}_iters", f"and {other}: the schedule counts in steps or in tokens, not in both"
                )


def check_optimizer(config: RunConfig) -> None:
    """The optimizer computes the same at every layout that it is given."""
    optimizer, parallel = config.optimizer, config.parallel
    if optimizer.optimizer == "stable_adamw" and not (optimizer.max_lr or optimizer.lr):
        refuse(config, "lr", "must be above 0 with --optimizer stable_adamw, whose weight decay is relative to it")
    if optimizer.max_lr and optimizer.optimizer != "stable_adamw":
        refuse(config, "max_lr", f"belongs to --optimizer stable_adamw; got {spell(config, 'optimizer')}")
    if optimizer.optimizer != "muon":
        return
    if parallel.tensor_model_parallel_size > 1:
        split = spell(config, "tensor_model_parallel_size")
        refuse(config, "optimizer", f"needs whole matrices, and {split} splits them; use data or pipeline parallelism")
    if parallel.use_distributed_optimizer:
        refuse(config, "optimizer", "needs whole matrices, and --use-distributed-optimizer splits them; leave it out")


def check_profile(config: RunConfig) -> None:
    """The steps of ``--profile-steps`` are ones that will be made."""
    steps, last = config.training.profile_steps.steps, config.training.train_iters
    if steps and last and steps.start > last:
        refuse(config, "profile_steps", f"begins after the last step, {spell(config, 'train_iters')}")


def check_checkpoints(config: RunConfig) -> None:
    """What belongs to loading and to keeping is there only where they are asked for."""
    places = config.checkpoint
    for name in ("load_step", "load_fallback"):
        if getattr(places, name) and not places.load:
            refuse(config, name, "needs --load, the folder that holds the checkpoint")
    parent = places.pretrained_checkpoint
    if parent and (not places.load or Path(places.load) not in (Path(parent), Path(places.save))):
        refuse(
            config, "pretrained_checkpoint", "needs --load with the folder of --save, for which it stands in at first"
        )
    for name in ("save_retain_interval", "save_retain_interval_tokens"):
        if getattr(places, name) and not places.keep_last_checkpoints:
            refuse(config, name, "needs --keep-last-checkpoints, without which no checkpoint is deleted")


def check_completeness(config: RunConfig, *, planning: bool) -> None:
    """What has no default is there."""
    training, checkpoint = config.training, config.checkpoint
    if not training.objective:
        raise ConfigError(
            f"--objective is missing: {names_of('encoder')} trains an encoder, {names_of('decoder')} a decoder"
        )
    if training.eval_only and not checkpoint.load:
        raise ConfigError("--eval-only needs --load, the checkpoint to measure")
    if planning:
        return
    for name in _NEEDED_TO_EVALUATE if training.eval_only else _NEEDED_TO_TRAIN:
        option = run_options()[name]
        if not value_of(config, name):
            raise ConfigError(f"{option.flag} is missing: {option.help}")
    if not training.eval_only and not (training.train_iters or training.train_tokens):
        raise ConfigError("--train-iters is missing: steps to train; or --train-tokens, real tokens to train")
    part = config.data.split.parts[1 if training.eval_only else 0]
    if part == 0:
        what = "validation part is 0, but --eval-only measures it" if training.eval_only else "training part is 0"
        refuse(config, "split", f"the {what}")


_FP8_MULTIPLE = 16
"""Sides of an FP8 product are multiples of this (Transformer Engine's requirement)."""


def check_backend(config: RunConfig) -> None:
    """Refuse kernels that do not fit each other or the shape.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    backend, parallel = config.backend, config.parallel
    if config.training.device == "cpu" and backend.transformer_impl == TRANSFORMER_ENGINE:
        refuse(config, "transformer_impl", "runs on CUDA devices only; got --device cpu")
    if parallel.overlap_param_gather and not (parallel.overlap_grad_reduce and parallel.use_distributed_optimizer):
        refuse(config, "overlap_param_gather", "needs --use-distributed-optimizer and --overlap-grad-reduce")
    if backend.recompute_num_layers and backend.recompute_granularity != "full":
        refuse(config, "recompute_num_layers", "belongs to --recompute-granularity full")
    if backend.fp8_format:
        _check_fp8(config)
        return
    for name in ("first_last_layers_bf16", "fp8_param_gather"):
        if getattr(backend, name):
            refuse(config, name, "belongs to --fp8-format")


def _check_fp8(config: RunConfig) -> None:
    backend = config.backend
    if backend.transformer_impl == "local":
        refuse(config, "fp8_format", f"needs Transformer Engine's layers; got {spell(config, 'transformer_impl')}")
    if not config.training.bf16:
        refuse(config, "fp8_format", "needs --bf16, which everything outside the FP8 products computes in")
    if backend.first_last_layers_bf16 and backend.fp8_recipe == "delayed":
        refuse(config, "first_last_layers_bf16", f"needs another recipe than {spell(config, 'fp8_recipe')}")
    if backend.fp8_param_gather and not config.parallel.use_distributed_optimizer:
        refuse(config, "fp8_param_gather", "needs --use-distributed-optimizer, which gathers the weights")
    tp = config.parallel.tensor_model_parallel_size
    for name in ("hidden_size", "ffn_hidden_size"):
        if getattr(config.model, name) % (_FP8_MULTIPLE * tp):
            split = spell(config, "tensor_model_parallel_size")
            rule = f"must leave a multiple of {_FP8_MULTIPLE} to every tensor-parallel rank; got {split}"
            refuse(config, name, f"with {spell(config, 'fp8_format')} {rule}")


def check_data(config: RunConfig) -> None:
    """Sources, chunks, masking and batches in tokens.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    _check_chunks(config)
    _check_masking(config)
    _check_token_batches(config)


def _check_chunks(config: RunConfig) -> None:
    data = config.data
    size = data.chunk_size or data.seq_length
    if data.chunk_size and not 8 <= data.chunk_size <= data.seq_length:
        refuse(config, "chunk_size", f"must be 8 to {spell(config, 'seq_length')}: a chunk fits a row")
    if 2 * data.chunk_min_size > size:
        refuse(config, "chunk_min_size", f"must be at most half a chunk of {size} positions, which gives from its end")
    if data.chunk_skip_size > size:
        refuse(config, "chunk_skip_size", f"must be at most a chunk, {size} positions")


def _check_masking(config: RunConfig) -> None:
    data = config.data
    largest = max(data.largest_mask_ratio, data.eval_mlm_probability)
    # Spans are at least a token apart: no more can be masked than a mean span and one.
    most = data.mask_span_length / (data.mask_span_length + 1)
    if data.masking == "span" and largest > most:
        refuse(config, "mask_span_length", f"leaves no room to mask {largest:g} of the tokens; at most {most:.3g}")


def _check_token_batches(config: RunConfig) -> None:
    training = config.training
    size = training.global_batch_tokens or training.global_batch_size
    if 0 < training.global_batch_tokens < config.data.seq_length:
        refuse(config, "global_batch_tokens", f"must hold a row of {spell(config, 'seq_length')}")
    if 0 < training.micro_batch_tokens < config.data.seq_length:
        refuse(config, "micro_batch_tokens", f"must hold a row of {spell(config, 'seq_length')}")
    if training.batch_warmup_start and not training.batch_warmup_tokens:
        refuse(config, "batch_warmup_start", "belongs to --batch-warmup-tokens")
    if training.batch_warmup_start > size:
        refuse(config, "batch_warmup_start", f"must be at most the full batch, {size}")
