"""Writing a checkpoint: tensors by all ranks, then its description, then the marker that makes it one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from megatron.core import dist_checkpointing
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule

from megatron_ettin.checkpoint.layout import (
    RUN_FILE,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    mark_whole,
    point_latest,
    step_folder_name,
    write_json_atomic,
)
from megatron_ettin.checkpoint.random_state import RANDOM_STATE_KEY, random_state_entry
from megatron_ettin.checkpoint.state import Layout, TrainingState, describe_run
from megatron_ettin.checkpoint.tensors import optimizer_steps, training_entries
from megatron_ettin.checkpoint.writer import InProcessWriter
from megatron_ettin.config.run import RunConfig
from megatron_ettin.runtime.device import Device
from megatron_ettin.runtime.groups import Ranks

OPTIMIZER_STEPS_KEY = "optimizer_steps"


def save_checkpoint(
    save: Path,
    run: RunConfig,
    state: TrainingState,
    model: MegatronModule,
    optimizer: MegatronOptimizer,
    ranks: Ranks,
    device: Device,
    tokenizer_files: Mapping[str, bytes],
) -> Path:
    """Write the checkpoint of ``state.step`` and return its folder; collective over the world.

    A folder of that step without a marker, which a killed run left, is replaced. The order makes a kill harmless at
    any moment: tensors and description first, the marker when all ranks are done, ``latest.json`` last.
    """
    folder = save / step_folder_name(state.step)
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / STATE_FOLDER).mkdir(parents=True)
    torch.distributed.barrier()
    write_state(folder / STATE_FOLDER, model, optimizer, ranks)
    if ranks.is_main:
        write_json_atomic(folder / RUN_FILE, describe_run(run, state, Layout.of(ranks, device.type)))
        _write_files(tokenizer_files, folder / TOKENIZER_FOLDER)
        commit(save, state.step)
    torch.distributed.barrier()
    return folder


def write_state(folder: Path, model: MegatronModule, optimizer: MegatronOptimizer, ranks: Ranks) -> None:
    """Write weights, optimizer state and random states into an empty folder; returns when all ranks have."""
    content: dict[str, Any] = dict(training_entries(model, optimizer))
    content[RANDOM_STATE_KEY] = random_state_entry(ranks)
    content[OPTIMIZER_STEPS_KEY] = optimizer_steps(optimizer)
    dist_checkpointing.save(content, str(folder), sharded_strategy=InProcessWriter())


def commit(save: Path, step: int) -> None:
    """Declare a step's folder whole and the latest; all its files are written."""
    mark_whole(save / step_folder_name(step))
    point_latest(save, step)


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
