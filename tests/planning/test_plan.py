"""The plan of a dry run as JSON and as a table."""

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


def test_json_contains_counts_layout_and_memory() -> None:
    output = json.loads(
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
    assert output["parameters"] == 16_913_600
    assert sum(output["parameters_by_part"].values()) == output["parameters"]
    assert output["steps"] == 1000
    assert output["tokens_per_step"] == 64 * 512
    assert output["tokens"] == 1000 * 64 * 512
    assert output["layout"] == {
        "world_size": 8,
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 2,
        "data_parallel_size": 2,
        "layers_per_stage": [4, 3],
        "micro_batches_per_step": 8,
    }
    assert output["memory_bytes_per_rank"] == sum(output["memory_bytes_by_part"].values()) > 0
    assert output["local_attention_window"] == [64, 64]
    assert output["global_layers"] == [0, 3, 6]
    assert output["notes"] == ["taken from a test"]


def test_json_is_one_line_and_contains_the_config() -> None:
    planned = plan(train_iters=5)
    text = plan_text(planned, "json")
    assert "\n" not in text
    assert RunConfig.from_dict(json.loads(text)["config"]) == planned.config


def test_fullest_rank_is_that_of_the_largest_stage() -> None:
    planned = plan(world_size=2, pipeline_model_parallel_size=2, objective="clm")
    assert planned.fullest_rank.total == max(stage.total for stage in planned.memory)
    assert len(planned.memory) == len(planned.parameters_per_rank) == 2


@pytest.mark.parametrize(
    ("objective", "kind", "window"),
    [("mlm", "encoder", "64 keys to the left"), ("clm", "decoder", "63 keys to the left")],
)
def test_table_has_one_fact_per_line(objective: str, kind: str, window: str) -> None:
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
    planned = build_plan(config, 2)
    assert planned.tokens_per_step == 4000
    assert planned.layout.micro_batches_per_step == 4, "two ranks share seven micro-batches of 600 tokens"
