"""What must hold between the sections of a run, before any file is opened or process group built."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.config.backend_checks import check_backend
from megatron_ettin.config.data_checks import check_data
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.fields import refuse, run_options, spell, value_of
from megatron_ettin.config.parallel import data_parallel_size
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.step_ranges import parse_steps
from megatron_ettin.config.time_units import (
    IN_TOKENS,
    SCHEDULE_LENGTHS,
    Unit,
    needs_end,
    schedule_end,
    schedule_unit,
)

_NEEDED_TO_TRAIN = ("data_path", "tokenizer_model", "save")
_NEEDED_TO_EVALUATE = ("data_path", "tokenizer_model")


def check_run(run: RunConfig, world_size: int, *, planning: bool = False) -> None:
    """Refuse a run that cannot work.

    Args:
        run: the resolved run.
        world_size: ranks over all nodes.
        planning: nothing will be trained, so corpus, tokenizer, folders and duration may be missing.

    Raises:
        ConfigError: names the flag, its value and the rule.
    """
    check_ranges(run)
    check_supported(run)
    check_shape(run)
    check_layout(run, world_size)
    check_batches(run, world_size)
    check_time_units(run)
    check_schedule(run)
    check_optimizer(run)
    check_backend(run)
    check_profile(run)
    check_checkpoints(run)
    parse_split(run.data.split)
    check_data(run)
    check_completeness(run, planning=planning)


def check_ranges(run: RunConfig) -> None:
    """Every field by itself: choices and bounds. A run that was read from a checkpoint has not passed the flags."""
    for option in run_options().values():
        value = value_of(run, option.name)
        rule = option.broken_rule(value)
        if rule is not None:
            raise ConfigError(f"{option.spell(value)}: {rule}")


def check_supported(run: RunConfig) -> None:
    """Parallelism that Megatron has and this trainer has not, by name."""
    parallel = run.parallel
    if parallel.context_parallel_size != 1:
        refuse(run, "context_parallel_size", "context parallelism is not supported; leave it at 1")
    if parallel.num_layers_per_virtual_pipeline_stage != 0:
        name = "num_layers_per_virtual_pipeline_stage"
        refuse(run, name, "the interleaved pipeline is not supported; leave it at 0")
    if parallel.use_torch_fsdp2:
        refuse(run, "use_torch_fsdp2", "FSDP is not supported; --use-distributed-optimizer shards optimizer state")


def check_shape(run: RunConfig) -> None:
    """Heads split the hidden size into even parts; the window has two halves."""
    model = run.model
    if model.hidden_size % model.num_attention_heads:
        heads = spell(run, "num_attention_heads")
        refuse(run, "hidden_size", f"cannot be split over {heads}: the heads must share it evenly")
    if model.head_size % 2:
        heads = spell(run, "num_attention_heads")
        refuse(run, "hidden_size", f"with {heads} makes heads of {model.head_size}: RoPE turns pairs, it must be even")
    if model.sliding_window % 2:
        refuse(run, "sliding_window", "must be even: half of it lies to each side")


def check_layout(run: RunConfig, world_size: int) -> None:
    """Tensor and pipeline parallelism fit the shape and the world."""
    model, parallel = run.model, run.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    tp_flag, pp_flag = spell(run, "tensor_model_parallel_size"), spell(run, "pipeline_model_parallel_size")
    for name in ("num_attention_heads", "ffn_hidden_size"):
        if getattr(model, name) % tp:
            refuse(run, name, f"cannot be split over {tp_flag}")
    if pp > model.num_layers:
        raise ConfigError(f"{pp_flag}: each stage needs a layer, but there are only {spell(run, 'num_layers')}")
    if world_size % (tp * pp):
        raise ConfigError(
            f"{tp_flag} {pp_flag}: one model takes {tp * pp} ranks, and the world (torchrun's --nproc-per-node times "
            f"--nnodes) has {world_size}, which is no multiple of that"
        )
    if parallel.sequence_parallel and tp == 1:
        refuse(run, "sequence_parallel", f"splits over the tensor-parallel ranks and needs 2 or more; got {tp_flag}")


def check_batches(run: RunConfig, world_size: int) -> None:
    """The global batch is a whole number of micro-batches on every data-parallel rank; evaluation has no such batch.

    Where micro-batches vary, ranks that come out short get one without rows.
    """
    training = run.training
    varies = training.global_batch_tokens or training.micro_batch_tokens or training.batch_warmup_tokens
    if training.eval_only or varies:
        return
    dp = data_parallel_size(run.parallel, world_size)
    micro = run.training.micro_batch_size
    if run.training.global_batch_size % (micro * dp):
        rows = f"{spell(run, 'micro_batch_size')} x {dp} data-parallel ranks = {micro * dp} rows"
        refuse(run, "global_batch_size", f"is no multiple of {rows}")


def check_schedule(run: RunConfig) -> None:
    """Warm-up, plateau and decay follow each other."""
    optimizer = run.optimizer
    if optimizer.min_lr > optimizer.lr:
        refuse(run, "min_lr", f"must not exceed the peak, {spell(run, 'lr')}")
    unit = schedule_unit(optimizer, run.training)
    warmup_name, decay_name = f"lr_warmup_{unit}", f"lr_wsd_decay_{unit}"
    warmup, decay = getattr(optimizer, warmup_name), getattr(optimizer, decay_name)
    if decay and optimizer.lr_decay_style != "WSD":
        refuse(run, decay_name, f"belongs to --lr-decay-style WSD; got {spell(run, 'lr_decay_style')}")
    end = schedule_end(optimizer, run.training)
    end_name = f"lr_decay_{unit}" if getattr(optimizer, f"lr_decay_{unit}") else f"train_{unit}"
    if end == 0:
        _refuse_endless(run, unit)
        return
    if warmup > end:
        refuse(run, warmup_name, f"must not be longer than the schedule, {spell(run, end_name)}")
    if warmup + decay > end:
        together = f"and {spell(run, warmup_name)} together must not be longer than the schedule"
        refuse(run, decay_name, f"{together}, {spell(run, end_name)}")


def _refuse_endless(run: RunConfig, unit: Unit) -> None:
    """A schedule that needs its end and counts in another unit than the run, which therefore does not tell it."""
    if needs_end(run.optimizer, unit) and (run.training.train_iters or run.training.train_tokens):
        duration = "train_tokens" if run.training.train_tokens else "train_iters"
        lengths = ", ".join(f"{run_options()[f'{length}_{unit}'].flag}" for length in SCHEDULE_LENGTHS)
        refuse(run, duration, f"does not tell when a schedule ends that counts otherwise ({lengths}); give its end")


def check_time_units(run: RunConfig) -> None:
    """Each length is given in steps or in tokens, and the schedule's lengths all in the same."""
    for in_steps, in_tokens in IN_TOKENS.items():
        if value_of(run, in_steps) and value_of(run, in_tokens):
            refuse(run, in_tokens, f"and {spell(run, in_steps)} say the same thing; give one of them")
    unit = schedule_unit(run.optimizer, run.training)
    if unit == "tokens":
        for length in SCHEDULE_LENGTHS:
            if value_of(run, f"{length}_iters"):
                tokens = [name for name in SCHEDULE_LENGTHS if value_of(run, f"{name}_tokens")]
                other = spell(run, f"{tokens[0]}_tokens")
                refuse(run, f"{length}_iters", f"and {other}: the schedule counts in steps or in tokens, not in both")


def check_optimizer(run: RunConfig) -> None:
    """The optimizer computes the same at every layout that it is given."""
    optimizer, parallel = run.optimizer, run.parallel
    if optimizer.optimizer == "stable_adamw" and not (optimizer.max_lr or optimizer.lr):
        refuse(run, "lr", "must be above 0 with --optimizer stable_adamw, whose weight decay is relative to it")
    if optimizer.max_lr and optimizer.optimizer != "stable_adamw":
        refuse(run, "max_lr", f"belongs to --optimizer stable_adamw; got {spell(run, 'optimizer')}")
    if optimizer.optimizer != "muon":
        return
    if parallel.tensor_model_parallel_size > 1:
        split = spell(run, "tensor_model_parallel_size")
        refuse(run, "optimizer", f"needs whole matrices, and {split} splits them; use data or pipeline parallelism")
    if parallel.use_distributed_optimizer:
        refuse(run, "optimizer", "needs whole matrices, and --use-distributed-optimizer splits them; leave it out")


def check_profile(run: RunConfig) -> None:
    """The steps of ``--profile-steps`` are ones that will be made."""
    steps, last = parse_steps(run.training.profile_steps), run.training.train_iters
    if steps and last and steps.start > last:
        refuse(run, "profile_steps", f"begins after the last step, {spell(run, 'train_iters')}")


def check_checkpoints(run: RunConfig) -> None:
    """What belongs to loading and to keeping is there only where they are asked for."""
    places = run.checkpoint
    for name in ("load_step", "load_fallback"):
        if getattr(places, name) and not places.load:
            refuse(run, name, "needs --load, the folder that holds the checkpoint")
    parent = places.pretrained_checkpoint
    if parent and (not places.load or Path(places.load) not in (Path(parent), Path(places.save))):
        refuse(run, "pretrained_checkpoint", "needs --load with the folder of --save, for which it stands in at first")
    for name in ("save_retain_interval", "save_retain_interval_tokens"):
        if getattr(places, name) and not places.keep_last_checkpoints:
            refuse(run, name, "needs --keep-last-checkpoints, without which no checkpoint is deleted")


def parse_split(split: str) -> tuple[float, float, float]:
    """Return the parts of ``--split`` (training, validation, test); missing ones are 0, as Megatron reads it.

    Raises:
        ConfigError: not one to three numbers, one is negative, or all are 0.
    """
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    # nan fails both comparisons, an infinite part the second.
    if not 1 <= len(parts) <= 3 or not all(part >= 0 for part in parts) or not 0 < sum(parts) < float("inf"):
        raise ConfigError(f"--split {split}: must be up to three parts such as 969,30,1, none negative and not all 0")
    training, validation, test = (*parts, 0.0, 0.0)[:3]
    return training, validation, test


def check_completeness(run: RunConfig, *, planning: bool) -> None:
    """What has no default is there."""
    training, checkpoint = run.training, run.checkpoint
    if not training.objective:
        raise ConfigError("--objective is missing: mlm or mntp trains an encoder, clm a decoder")
    if training.eval_only and not checkpoint.load:
        raise ConfigError("--eval-only needs --load, the checkpoint to measure")
    if planning:
        return
    for name in _NEEDED_TO_EVALUATE if training.eval_only else _NEEDED_TO_TRAIN:
        option = run_options()[name]
        if not value_of(run, name):
            raise ConfigError(f"{option.flag} is missing: {option.help}")
    if not training.eval_only and not (training.train_iters or training.train_tokens):
        raise ConfigError("--train-iters is missing: steps to train; or --train-tokens, real tokens to train")
    part = parse_split(run.data.split)[1 if training.eval_only else 0]
    if part == 0:
        what = "validation part is 0, but --eval-only measures it" if training.eval_only else "training part is 0"
        refuse(run, "split", f"the {what}")
