"""Plans for a cluster: usable memory computed by hand, refusals, and recommended layouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from megatron_ettin.config.command_line import parse_command
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.planning.cluster import (
    Cluster,
    check_fit,
    fullest_rank,
    layout_flags,
    parse_cluster,
    recommend_layout,
)
from megatron_ettin.planning.model_size import count_parameters
from megatron_ettin.planning.plan import Plan, build_plan
from megatron_ettin.planning.report import plan_text
from megatron_ettin.train.preflight.prepare import prepare_run

GIB = 2**30


def run_of(size: str, *flags: str, world_size: int = 8, objective: str = "mlm") -> RunConfig:
    command = parse_command(["--preset", f"ettin-{size}", "--objective", objective, "--bf16", "--dry-run", *flags])
    return prepare_run(command, world_size).config


def plan(size: str, cluster: Cluster, *flags: str) -> Plan:
    return build_plan(run_of(size, *flags, world_size=cluster.gpus), 1, cluster=cluster)


def test_usable_memory_excludes_a_tenth_and_two_gib() -> None:
    assert Cluster(8, 8, 80 * GIB).usable_bytes == 70 * GIB
    assert Cluster(8, 8, 2 * GIB).usable_bytes == 0


@pytest.mark.parametrize(
    ("flags", "cluster"),
    [
        ({}, None),
        ({"plan_gpus": "32"}, Cluster(32, 8, 0)),
        ({"plan_gpus": "4", "plan_gpu_memory": "80"}, Cluster(4, 4, 80 * GIB)),
        ({"plan_gpu_memory": "141.5"}, Cluster(2, 2, int(141.5 * GIB))),
        ({"plan_gpus": "8", "plan_gpus_per_node": "4"}, Cluster(8, 4, 0)),
    ],
)
def test_flags_make_a_cluster(flags: dict[str, str], cluster: Cluster | None) -> None:
    assert parse_cluster(flags, world_size=2) == cluster


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"plan_gpus": "many"}, "--plan-gpus many: must be a whole number of 1 or more"),
        ({"plan_gpus": "0"}, "--plan-gpus 0: must be a whole number of 1 or more"),
        ({"plan_gpus": "12"}, "--plan-gpus 12: must be a multiple of --plan-gpus-per-node 8"),
        ({"plan_gpu_memory": "-1"}, "--plan-gpu-memory -1: must be a number of GiB above 0"),
        ({"plan_gpu_memory": "inf"}, "--plan-gpu-memory inf: must be a number of GiB above 0"),
        ({"plan_gpu_memory": "80GB"}, "--plan-gpu-memory 80GB: must be a number of GiB above 0"),
    ],
)
def test_invalid_cluster_flags_are_refused(flags: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cluster(flags, world_size=1)
    assert str(refused.value) == message


def test_without_the_distributed_optimizer_a_parameter_takes_eighteen_bytes() -> None:
    """bf16 weight 2, fp32 gradient 4, fp32 copy and two moments 12; a norm's weight is fp32 and needs no copy."""
    config = run_of("1b")
    memory = fullest_rank(config, Cluster(8))
    parameters = count_parameters(config.model)
    norms = parameters.norms + config.model.hidden_size  # and the head's
    assert memory.total - memory.activations == 18 * parameters.total - 2 * norms


def test_a_run_that_does_not_fit_is_refused_with_a_layout_that_does() -> None:
    cluster = Cluster(8, 8, 16 * GIB)
    with pytest.raises(ConfigError) as refused:
        plan("1b", cluster)
    needed = fullest_rank(run_of("1b"), cluster).total / GIB
    start = (
        "--micro-batch-size 1 --tensor-model-parallel-size 1 --pipeline-model-parallel-size 1: the fullest rank needs "
    )
    assert str(refused.value).startswith(f"{start}{needed:.1f} GiB, and --plan-gpu-memory 16 leaves 12.4 GiB for it")
    advice = str(refused.value).split("this would fit: ")[1]
    assert plan("1b", cluster, *advice.split()).fullest_rank.total <= cluster.usable_bytes


def test_no_layout_fits_into_the_smallest_gpu() -> None:
    with pytest.raises(ConfigError, match="no layout of these GPUs would fit"):
        plan("1b", Cluster(8, 8, 3 * GIB))


def test_a_micro_batch_in_tokens_is_named() -> None:
    run = run_of("1b", "--packing", "best-fit", "--micro-batch-tokens", "262144", "--global-batch-tokens", "4m")
    with pytest.raises(ConfigError, match=r"^--micro-batch-tokens \S+ --tensor-model-parallel-size 1 "):
        check_fit(run, Cluster(8, 8, 40 * GIB), None)


@pytest.mark.parametrize("size", ["17m", "32m", "68m", "150m", "400m", "1b"])
@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_a_copy_of_each_published_model_fits_on_one_gpu(size: str, gpus: int) -> None:
    cluster = Cluster(gpus, min(gpus, 8), 80 * GIB)
    recommended = plan(size, cluster).recommended
    assert recommended is not None
    assert recommended.parallel.tensor_model_parallel_size == recommended.parallel.pipeline_model_parallel_size == 1
    assert recommended.backend.recompute_granularity == ""
    assert recommended.parallel.use_distributed_optimizer == (gpus > 1)
    assert recommended.training.micro_batch_size * 1024 >= 8192
    assert recommended.training.global_batch_size % (recommended.training.micro_batch_size * gpus) == 0


def test_the_next_larger_micro_batch_would_not_fit() -> None:
    cluster = Cluster(8, 8, 80 * GIB)
    recommended = plan("1b", cluster).recommended
    assert recommended is not None
    size = recommended.training.micro_batch_size
    rows = recommended.training.global_batch_size // 8
    larger = min(count for count in range(size + 1, rows + 1) if rows % count == 0)
    assert fullest_rank(recommended, cluster).total <= cluster.usable_bytes
    assert fullest_rank(recommended.with_values({"micro_batch_size": larger}), cluster).total > cluster.usable_bytes


def test_less_memory_costs_recomputation_before_parallelism() -> None:
    runs = [recommend_layout(run_of("1b"), Cluster(8, 8, memory * GIB)) for memory in (80, 24, 12, 7)]
    layouts = [
        (run.backend.recompute_granularity, run.parallel.tensor_model_parallel_size) for run in runs if run is not None
    ]
    assert layouts[0] == ("", 1)
    assert layouts[1] == ("selective", 1)
    assert layouts[2][0] == "full"
    assert layouts[3][1] > 1


def test_tensor_parallelism_stays_in_a_machine() -> None:
    cluster = Cluster(8, 2, 6 * GIB)
    recommended = recommend_layout(run_of("1b"), cluster)
    assert recommended is not None
    assert recommended.parallel.tensor_model_parallel_size <= 2
    assert recommended.parallel.pipeline_model_parallel_size > 1


def test_recommended_flags_give_the_recommended_layout() -> None:
    cluster = Cluster(32, 8, 80 * GIB)
    recommended = plan("400m", cluster).recommended
    assert recommended is not None
    again = plan("400m", cluster, *layout_flags(recommended).split())
    assert again.config == recommended
    assert again.recommended == recommended


def test_plan_contains_the_cluster() -> None:
    planned = plan("150m", Cluster(32, 8, 80 * GIB), "--micro-batch-size", "4")
    output: dict[str, Any] = json.loads(plan_text(planned, "json"))
    assert output["layout"]["world_size"] == 32
    facts = output["cluster"]
    assert (facts["gpus"], facts["gpus_per_node"], facts["usable_bytes"]) == (32, 8, 70 * GIB)
    assert facts["recommended"]["tensor_model_parallel_size"] == 1
    assert sum(facts["recommended_memory_bytes_by_part"].values()) <= 70 * GIB
    lines = {line[:23].strip(): line[23:] for line in plan_text(planned, "table").splitlines() if line[:23].strip()}
    assert lines["memory of a GPU"] == "80.00 GiB, 70.00 GiB of it usable for tensors"
    assert lines["recommended"].startswith("--tensor-model-parallel-size 1 --pipeline-model-parallel-size 1 ")


def test_without_gpu_memory_no_layout_is_recommended() -> None:
    planned = plan("1b", Cluster(16))
    assert planned.recommended is None
    assert "recommended " not in plan_text(planned, "table")
    assert json.loads(plan_text(planned, "json"))["cluster"]["recommended"] is None


def pretrain(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_ettin.pretrain", "--preset", "ettin-17m", "--objective", "clm", *flags]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60)


def test_command_line_plans_for_absent_gpus() -> None:
    result = pretrain("--dry-run=json", "--plan-gpus", "256", "--plan-gpu-memory", "80")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["layout"]["data_parallel_size"] == 256


def test_plan_flags_need_a_dry_run() -> None:
    result = pretrain("--plan-gpus", "8")
    assert (result.returncode, result.stderr) == (2, "error: --plan-gpus 8: needs --dry-run\n")
