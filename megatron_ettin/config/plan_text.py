"""A plan as JSON for programs and as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from megatron_ettin.config.fields import run_options
from megatron_ettin.config.plan import Plan
from megatron_ettin.config.run import RunConfig

_NAME_WIDTH = 23


def plan_text(plan: Plan, form: str) -> str:
    """Return the plan as one line of JSON (``form`` json) or as a table of one fact a line."""
    if form == "json":
        return json.dumps(plan.to_dict())
    return "\n".join(f"{name:<{_NAME_WIDTH}}{told}" for name, told in _rows(plan))


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    yield from _model_rows(plan)
    yield from _work_rows(plan)
    memory = plan.fullest_rank
    yield "memory per rank", f"{_size(memory.total)}, estimated for the fullest rank"
    yield "", _parts({name: _size(held) for name, held in asdict(memory).items()})
    yield "not the default", _changed(plan.run)
    for note in plan.notes:
        yield "note", note


def _model_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    model, objective = plan.run.model, plan.run.training.objective
    kind = {"mlm": "encoder", "clm": "decoder"}[objective]
    heads = f"{model.num_attention_heads} heads of {model.head_size}"
    left, right = plan.window
    yield "objective", f"{objective} ({kind})"
    yield "shape", f"{model.num_layers} layers, hidden {model.hidden_size}, MLP {model.ffn_hidden_size}, {heads}"
    yield "vocabulary", f"{model.vocab_size:,}"
    yield "parameters", f"{plan.parameters.total:,}"
    yield "", _parts({name: f"{count:,}" for name, count in asdict(plan.parameters).items()})
    yield "global layers", f"{', '.join(map(str, plan.global_layers))} (the first is 0)"
    yield "local layers see", f"{left} keys to the left of a position, {right} to the right, and itself"


def _work_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    layout, training = plan.layout, plan.run.training
    tp, pp, dp = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size, layout.data_parallel_size
    yield "ranks", f"{layout.world_size} = {tp} tensor x {pp} pipeline x {dp} data parallel"
    yield "layers of each stage", ", ".join(map(str, layout.layers_per_stage))
    micro = f"{layout.micro_batches_per_step} x {training.micro_batch_size} on each data-parallel rank"
    yield "rows of a step", f"{training.global_batch_size} ({micro})"
    yield "tokens of a step", f"at most {plan.tokens_per_step:,} (rows of {plan.run.data.seq_length} positions)"
    yield "steps", f"{training.train_iters:,}"
    yield "tokens", f"at most {plan.tokens:,}"


def _changed(run: RunConfig) -> str:
    values = {option: getattr(getattr(run, option.section), option.name) for option in run_options().values()}
    return " ".join(option.spell(value) for option, value in values.items() if value != option.default)


def _parts(parts: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {told}" for name, told in parts.items())


def _size(held_bytes: int) -> str:
    return f"{held_bytes / 2**30:.2f} GiB" if held_bytes >= 2**30 else f"{held_bytes / 2**20:.1f} MiB"
