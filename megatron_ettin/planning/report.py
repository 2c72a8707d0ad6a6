"""The plan of a dry run as JSON or as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from megatron_ettin.config.objectives import OBJECTIVES
from megatron_ettin.config.run import RunConfig, run_options, value_of
from megatron_ettin.config.time_units import schedule_unit
from megatron_ettin.config.value_types import format_token_count
from megatron_ettin.files import format_bytes
from megatron_ettin.planning.cluster import Cluster, fullest_rank, layout_flags
from megatron_ettin.planning.memory import MemoryEstimate
from megatron_ettin.planning.plan import Moment, Plan

_NAME_WIDTH = 23


def plan_text(plan: Plan, form: str) -> str:
    """Return the plan as one line of JSON (``form`` json) or as a table with one fact per line."""
    if form == "json":
        return json.dumps(plan.to_dict())
    return "\n".join(f"{name:<{_NAME_WIDTH}}{text}" for name, text in _rows(plan))


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    yield from _model_rows(plan)
    yield from _work_rows(plan)
    memory = plan.fullest_rank
    yield "memory per rank", f"{format_bytes(memory.total)}, estimated for the fullest rank"
    yield "", _memory_parts(memory)
    if plan.cluster and plan.cluster.memory_bytes:
        yield from _cluster_rows(plan, plan.cluster)
    yield "not the default", _changed(plan.config)
    for note in plan.notes:
        yield "note", note


def _cluster_rows(plan: Plan, cluster: Cluster) -> Iterator[tuple[str, str]]:
    usable = format_bytes(cluster.usable_bytes)
    yield "memory of a GPU", f"{format_bytes(cluster.memory_bytes)}, {usable} of it usable for tensors"
    if plan.recommended:
        memory = fullest_rank(plan.recommended, cluster)
        yield "recommended", layout_flags(plan.recommended)
        yield "", f"{format_bytes(memory.total)}: {_memory_parts(memory)}"


def _model_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    model, objective = plan.config.model, plan.config.training.objective
    kind = OBJECTIVES[objective].product
    heads = f"{model.num_attention_heads} heads of {model.head_size}"
    left, right = plan.window
    yield "objective", f"{objective} ({kind}), phase {plan.config.training.phase}"
    yield "shape", f"{model.num_layers} layers, hidden {model.hidden_size}, MLP {model.ffn_hidden_size}, {heads}"
    yield "vocabulary", f"{model.vocab_size:,}"
    yield "parameters", f"{plan.parameters.total:,}"
    yield "", _parts({name: f"{count:,}" for name, count in asdict(plan.parameters).items()})
    yield "global layers", f"{', '.join(map(str, plan.global_layers))} (the first is 0)"
    yield "RoPE bases", f"{model.rope_global_base:,.0f} in global layers, {model.rope_local_base:,.0f} in local ones"
    yield "local layers see", f"{left} keys to the left of a position, {right} to the right, and itself"


def _work_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    layout = plan.layout
    tp, pp, dp = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size, layout.data_parallel_size
    yield "ranks", f"{layout.world_size} = {tp} tensor x {pp} pipeline x {dp} data parallel"
    yield "precision", _precision(plan)
    yield "layers of each stage", ", ".join(map(str, layout.layers_per_stage))
    yield "rows of a step", _rows_of_a_step(plan)
    yield "tokens of a step", _tokens_of_a_step(plan)
    yield from _duration_rows(plan)
    yield "packing", _packing(plan.config)
    for moment in plan.path:
        ratio = f", mask ratio {moment.mask_ratio:g}" if moment.mask_ratio is not None else ""
        yield "learning rate", f"{moment.learning_rate:.4g} at {_time(plan, moment)}{ratio}"
    yield "checkpoints", _checkpoints(plan)


def _precision(plan: Plan) -> str:
    training, parallel = plan.config.training, plan.config.parallel
    width = 4 if training.widens_residual or not training.bf16 else 2
    types = "fp32"
    if training.bf16:
        types = f"bf16, residual stream and norms in {'fp32' if training.widens_residual else 'bf16'}"
    if parallel.pipeline_model_parallel_size > 1:
        types += f"; {width * plan.config.model.hidden_size:,} bytes per token between pipeline stages"
    return types


def _checkpoints(plan: Plan) -> str:
    places = plan.config.checkpoint
    if not places.keep_last_checkpoints:
        return f"{plan.checkpoints:,}"
    kept = f"the last {places.keep_last_checkpoints} stay"
    if places.save_retain_interval_tokens:
        kept += f", and the first past each multiple of {format_token_count(places.save_retain_interval_tokens)} tokens"
    elif places.save_retain_interval:
        kept += f", and the first past each multiple of {places.save_retain_interval:,} steps"
    return f"{plan.checkpoints:,} saved; {kept}"


def _rows_of_a_step(plan: Plan) -> str:
    training = plan.config.training
    each = (
        f"rows of {training.micro_batch_tokens:,} tokens" if training.micro_batch_tokens else training.micro_batch_size
    )
    micro = f"{plan.layout.micro_batches_per_step} x {each} on each data-parallel rank"
    rows = "as many as fit" if training.global_batch_tokens else training.global_batch_size
    growth = ""
    if training.batch_warmup_tokens:
        growth = f", growing to that over {format_token_count(training.batch_warmup_tokens)} tokens"
    return f"{rows} ({micro}){growth}"


def _tokens_of_a_step(plan: Plan) -> str:
    data = plan.config.data
    if plan.config.training.global_batch_tokens:
        return f"at most {plan.tokens_per_step:,}"
    if data.real_tokens_per_row:
        each = f"--real-tokens-per-row {data.real_tokens_per_row:g}"
        return f"about {plan.tokens_per_step:,} ({each}, rows of at most {data.seq_length} positions)"
    return f"at most {plan.tokens_per_step:,} (rows of {data.seq_length} positions)"


def _duration_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    training = plan.config.training
    bound = "about" if plan.config.data.real_tokens_per_row else "at most"
    if training.train_tokens:
        # Rows with fewer tokens take more steps for the same tokens.
        yield "steps", f"{'about' if bound == 'about' else 'at least'} {plan.steps:,}"
        yield "tokens", f"{plan.tokens:,} ({format_token_count(plan.tokens)})"
    else:
        yield "steps", f"{plan.steps:,}"
        yield "tokens", f"{bound} {plan.tokens:,}"


def _time(plan: Plan, moment: Moment) -> str:
    if schedule_unit(plan.config.optimizer, plan.config.training) == "tokens":
        return f"{format_token_count(moment.tokens)} tokens"
    return f"step {moment.steps:,}"


def _packing(config: RunConfig) -> str:
    if config.data.packing == "none":
        return "none: one chunk of a document per row, as published (--packing best-fit puts several in a row)"
    return f"{config.data.packing}: several chunks of documents per row"


def _changed(config: RunConfig) -> str:
    values = {option: value_of(config, option.name) for option in run_options().values()}
    return " ".join(option.spell(value) for option, value in values.items() if value != option.default)


def _memory_parts(memory: MemoryEstimate) -> str:
    return _parts({name: format_bytes(num_bytes) for name, num_bytes in asdict(memory).items()})


def _parts(parts: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in parts.items())
