"""The dry run's figures, as JSON and as a table."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.presets import preset_values
from megatron_ettin.config.run import RunConfig
from megatron_ettin.planning.plan import Plan, build_plan
from megatron_ettin.planning.report import plan_text
from tests.helpers.runs import tiny_run

SHAPE = {declared.name for declared in fields(ModelConfig)}


def plan(world_size: int = 1, preset: str = "ettin-17m", **values: Any) -> Plan:
    shape = {name: value for name, value in preset_values(preset, "mlm", "pretrain").items() if name in SHAPE}
    settings = {"objective": "mlm", **shape, **values}
    return build_plan(RunConfig().with_values(settings), world_size, notes=("taken from a test",))


def test_json_tells_what_scripts_ask_for() -> None:
    told = json.loads(
        plan_text(
            plan(
                world_size=8,
                tensor_model_parallel_size=2,
                pipeline_model_parallel_size=2,
                micro_batch_size=4,
                global_batch_size=64,
                seq_length=512,
                train_iters=1000,
            ),
            "json",
        )
    )
    assert told["parameters"] == 16_913_600
    assert sum(told["parameters_by_part"].values()) == told["parameters"]
    assert told["steps"] == 1000
    assert told["tokens_per_step"] == 64 * 512
    assert told["tokens"] == 1000 * 64 * 512
    assert told["layout"] == {
        "world_size": 8,
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 2,
        "data_parallel_size": 2,
        "layers_per_stage": [4, 3],
        "micro_batches_per_step": 8,
    }
    assert told["memory_bytes_per_rank"] == sum(told["memory_bytes_by_part"].values()) > 0
    assert told["local_attention_window"] == [64, 64]
    assert told["global_layers"] == [0, 3, 6]
    assert told["notes"] == ["taken from a test"]


def test_json_is_one_line_and_holds_the_run() -> None:
    made = plan(train_iters=5)
    text = plan_text(made, "json")
    assert "\n" not in text
    assert RunConfig.from_dict(json.loads(text)["config"]) == made.config


def test_fullest_rank_is_of_the_stage_that_needs_most() -> None:
    made = plan(world_size=2, pipeline_model_parallel_size=2, objective="clm")
    assert made.fullest_rank.total == max(stage.total for stage in made.memory)
    assert len(made.memory) == len(made.parameters_per_rank) == 2


@pytest.mark.parametrize(
    ("objective", "kind", "window"),
    [("mlm", "encoder", "64 keys to the left"), ("clm", "decoder", "63 keys to the left")],
)
def test_table_is_for_reading(objective: str, kind: str, window: str) -> None:
    table = plan_text(plan(objective=objective, train_iters=1000), "table")
    lines = {line[:23].strip(): line[23:] for line in table.splitlines()}
    assert lines["objective"] == f"{objective} ({kind}), phase pretrain"
    assert lines["parameters"] == "16,913,600"
    assert lines["local layers see"].startswith(window)
    assert lines["tokens"] == "at most 8,192,000"
    assert lines["note"] == "taken from a test"
    assert f"--vocab-size 50368 --objective {objective} --train-iters 1000" in lines["not the default"]


def test_batches_in_tokens() -> None:
    config = tiny_run("mlm", global_batch_tokens=4000, micro_batch_tokens=600, batch_warmup_tokens=10_000)
    plan = build_plan(config, 2)
    assert plan.tokens_per_step == 4000
    assert plan.layout.micro_batches_per_step == 4, "two ranks share seven micro-batches of 600 tokens"
