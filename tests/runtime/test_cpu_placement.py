"""What the CPU placement redirects, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.distributed import run_ranks


def placements() -> dict[str, Any]:
    """Use each redirected name as megatron-core does; return the devices of the results."""
    import torch
    from megatron.core.tensor_parallel import random as core_random

    from megatron_ettin.runtime.cpu_placement import (
        REDIRECTED_IN_CORE_RANDOM,
        REDIRECTED_IN_TENSOR,
        REDIRECTED_IN_TORCH,
        REDIRECTED_IN_TORCH_CUDA,
        install_cpu_placement,
    )

    install_cpu_placement()
    made = {
        "literal": torch.zeros(2, device="cuda"),
        "tensor": torch.tensor([1.0], device="cuda"),
        "numbered": torch.empty(2, device="cuda:1"),
        "current": torch.ones(2, device=torch.cuda.current_device()),
        "device object": torch.full((2,), 3.0, device=torch.device("cuda", 0)),
        "like": torch.empty_like(torch.zeros(2), device="cuda"),
        "method": torch.zeros(2).cuda(),
        "to": torch.zeros(2).to("cuda"),
        "to keyword": torch.zeros(2).to(device="cuda", dtype=torch.float64),
        "untouched": torch.zeros(2, device="meta"),
    }
    torch.cuda.synchronize()
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    core_random._set_cuda_rng_state(state)
    return {
        "devices": {name: tensor.device.type for name, tensor in made.items()},
        "types": [torch.zeros(1, dtype=t).type() for t in (torch.float32, torch.bfloat16, torch.float16, torch.int64)],
        "cast": torch.zeros(1).type(torch.float64).dtype is torch.float64,
        "same draw": bool((first == torch.rand(3)).all()),
        "torch": sorted(REDIRECTED_IN_TORCH),
        "tensor": sorted(REDIRECTED_IN_TENSOR),
        "torch.cuda": sorted(REDIRECTED_IN_TORCH_CUDA),
        "core random": sorted(REDIRECTED_IN_CORE_RANDOM),
    }


def test_exactly_the_listed_names_are_redirected() -> None:
    result = run_ranks(1, placements)[0]
    assert result["devices"].pop("untouched") == "meta"
    assert set(result["devices"].values()) == {"cpu"}
    assert result["types"] == [
        "torch.cuda.FloatTensor",
        "torch.cuda.BFloat16Tensor",
        "torch.cuda.HalfTensor",
        "torch.LongTensor",
    ]
    assert result["cast"]
    assert result["same draw"]
    assert result["torch"] == ["empty", "empty_like", "full", "ones", "tensor", "zeros"]
    assert result["tensor"] == ["cuda", "to", "type"]
    assert result["torch.cuda"] == [
        "current_device",
        "empty_cache",
        "get_rng_state",
        "manual_seed",
        "set_rng_state",
        "synchronize",
    ]
    assert result["core random"] == ["_get_cuda_rng_state", "_set_cuda_rng_state"]


IMPORT_CORE = """
import sys
import torch
from megatron_ettin.runtime.cpu_placement import import_core

original = torch.compile
import_core()
assert torch.compile is original
import megatron_ettin.train.launch
from megatron.core.jit import jit_fuser
print([name for name in ("megatron.core", "torch._inductor.compile_fx", "torch._dynamo") if name in sys.modules])

torch.compile = lambda function: lambda number: ("compiled", function(number))
fused = jit_fuser(lambda number: number + 1)
print(fused(1), fused(2))
"""


def test_core_is_imported_without_the_compiler_and_compiles_when_called() -> None:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_CORE], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["['megatron.core']", "('compiled', 2) ('compiled', 3)"], result.stderr


def after_training(objective: str) -> list[str]:
    """Train a step with dropout; return the modules of torch's compiler that it imported."""
    from tests.helpers.runs import TINY, tiny_run
    from tests.helpers.training import start_training, train_steps

    before = set(sys.modules)
    config = tiny_run(objective, model=replace(TINY, attention_output_dropout=0.1), tensor_model_parallel_size=2)
    train_steps(start_training(config), range(1))
    return [name for name in sys.modules.keys() - before if name == "torch._inductor.compile_fx"]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_training_on_cpus_compiles_nothing(objective: str) -> None:
    assert run_ranks(2, after_training, objective) == [[], []]


def install_for(version: str) -> None:
    """Install the placement as if another megatron-core were installed."""
    from megatron_ettin.runtime import cpu_placement

    original, installed = cpu_placement.version, cpu_placement._installed
    cpu_placement.version, cpu_placement._installed = lambda distribution_name: version, False
    try:
        cpu_placement.install_cpu_placement()
    finally:
        cpu_placement.version, cpu_placement._installed = original, installed


def test_unchecked_core_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"megatron-core 9\.9\.9 is installed"):
        run_ranks(1, install_for, "9.9.9")


def ranks_and_draws(tp: int, pp: int) -> dict[str, Any]:
    """Return this rank's coordinates and two draws: of the default and the tensor-parallel generator."""
    import torch
    from megatron.core import tensor_parallel

    from megatron_ettin.runtime.device import choose_device
    from megatron_ettin.runtime.process import start_process
    from tests.helpers.runs import tiny_run

    config = tiny_run("mlm", tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    here = start_process(config, choose_device("cpu"))
    default = torch.rand(1).item()
    with tensor_parallel.get_cuda_rng_tracker().fork():
        inside = torch.rand(1).item()
    return {**vars(here), "default": default, "inside": inside}


def test_random_states_follow_the_layout() -> None:
    ranks = run_ranks(4, ranks_and_draws, 2, 1)
    by_coordinates = {(r["tp_rank"], r["dp_rank"]): r for r in ranks}
    for dp in (0, 1):
        assert by_coordinates[0, dp]["default"] == by_coordinates[1, dp]["default"]
    assert by_coordinates[0, 0]["default"] != by_coordinates[0, 1]["default"]
    assert len({r["inside"] for r in ranks}) == 4
