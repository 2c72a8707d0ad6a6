"""Import and export the six published sizes of encoder and decoder: every tensor is bit-equal.

The hub folders have the names and shapes of transformers' classes, and random bits as weights.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from megatron_ettin.config.model import ModelConfig
from megatron_ettin.config.presets import PRESETS
from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.export import export_checkpoint
from megatron_ettin.convert.hf_config import config_to_hf
from megatron_ettin.convert.import_model import import_model
from megatron_ettin.convert.safetensors_writer import TensorEntry, write_safetensors
from tests.convert.samples import OBJECTIVES, TOKENS, write_tokenizer

SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")
BASELINE_BYTES = 600_000_000
"""Python, torch and the libraries, and the largest tensor."""


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
"""Runs a command and prints its peak memory in bytes."""


def published(size: str) -> ModelConfig:
    return RunConfig().with_values(PRESETS[f"ettin-{size}"]).model


def narrow(model: ModelConfig) -> ModelConfig:
    """Return a model of the same depth and number of heads, an eighth as wide."""
    return replace(
        model, hidden_size=model.hidden_size // 8, ffn_hidden_size=model.ffn_hidden_size // 8, vocab_size=131
    )


def write_random_folder(folder: Path, objective: str, model: ModelConfig) -> None:
    import transformers

    config = config_to_hf(model, objective, max_positions=7999, tokens=TOKENS, dtype="float32")
    hf_class: Any = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        shapes = hf_class(hf_class.config_class(**config)).state_dict()
    del shapes["decoder.weight"]
    generator = torch.Generator().manual_seed(4)
    folder.mkdir()
    entries = [TensorEntry(name, tuple(tensor.shape), torch.float32) for name, tensor in shapes.items()]
    weights = (torch.empty(entry.shape).normal_(generator=generator) for entry in entries)
    write_safetensors(folder / "model.safetensors", entries, weights)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, model.vocab_size)


def assert_same_tensors(one: Path, other: Path) -> None:
    with safe_open(one, "pt") as before, safe_open(other, "pt") as after:
        assert sorted(before.keys()) == sorted(after.keys())
        for name in before.keys():  # noqa: SIM118 - the library's file is not a mapping
            assert before.get_tensor(name).equal(after.get_tensor(name)), name


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is deleted after the test, because it contains gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", SIZES)
def test_a_narrow_model_of_each_depth_is_bit_equal(disk: Path, size: str, objective: str) -> None:
    write_random_folder(disk / "hub", objective, narrow(published(size)))
    import_model(disk / "hub", disk / "run")
    export_checkpoint(disk / "run", disk / "out", check=False)
    assert_same_tensors(disk / "hub" / "model.safetensors", disk / "out" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", SIZES)
def test_the_published_size_is_bit_equal(disk: Path, size: str, objective: str) -> None:
    write_random_folder(disk / "hub", objective, published(size))
    import_model(disk / "hub", disk / "run")
    gc.collect()
    command = [sys.executable, "tools/convert_to_hf.py", "--load", disk / "run", "--save", disk / "out", "--no-check"]
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, command)], capture_output=True, text=True, check=True
    )
    assert_same_tensors(disk / "hub" / "model.safetensors", disk / "out" / "model.safetensors")
    weights = (disk / "out" / "model.safetensors").stat().st_size
    peak = int(process.stdout.split()[-1])
    assert peak <= 1.3 * weights + BASELINE_BYTES, f"{peak / weights:.2f} of the weights"
