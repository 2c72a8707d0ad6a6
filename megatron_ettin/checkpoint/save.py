"""Write a checkpoint: tensors by all ranks, then ``run.json``, then the marker that makes it complete.

The order is ``stage_checkpoint``, ``attempt_write``, ``commit_checkpoint``; training may continue during the second.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import is_main_replica

from megatron_ettin.checkpoint.folder.integrity import mark_complete
from megatron_ettin.checkpoint.folder.layout import (
    RUN_FILE,
    STATE_FOLDER,
    TOKENIZER_FOLDER,
    point_latest,
    step_folder_name,
)
from megatron_ettin.checkpoint.folder.state import TrainingState, describe_run
from megatron_ettin.checkpoint.rank_state import RANDOM_STATE_KEY, TrainedParts, random_state_entry
from megatron_ettin.checkpoint.tensors import Entries, training_entries
from megatron_ettin.checkpoint.writer import HostBuffers, StateWriter, WrittenPart
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import RunFailure
from megatron_ettin.files import format_bytes, write_json_atomic
from megatron_ettin.optim.core_state import optimizer_steps
from megatron_ettin.runtime.ranks import Ranks

OPTIMIZER_STEPS_KEY = "optimizer_steps"


@dataclass(frozen=True)
class StagedCheckpoint:
    """A checkpoint whose content is fixed and whose tensors are not written yet."""

    folder: Path
    step: int
    run_json: dict[str, Any]
    writer: StateWriter


def stage_checkpoint(
    save: Path,
    config: RunConfig,
    state: TrainingState,
    parts: TrainedParts,
    buffers: HostBuffers | None = None,
) -> StagedCheckpoint:
    """Fix the content of the checkpoint of ``state.step``; collective over the world.

    A half-written folder of that step, left by a killed run, is replaced. With ``buffers`` the tensors are copied, and
    training may continue while they are written; without them it has to wait.

    Raises:
        RunFailure: on all ranks, if the disk has too little space.
    """
    folder, ranks = save / step_folder_name(state.step), parts.ranks
    if ranks.is_main:
        save.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    entries = training_entries(parts.model, parts.optimizer)
    check_free_space(save, state.step, entries)
    if ranks.is_main:
        (folder / STATE_FOLDER).mkdir(parents=True)
    torch.distributed.barrier()
    writer = _stage_state(folder / STATE_FOLDER, entries, parts, buffers)
    # A copy as well: the counters change while the tensors are written.
    run_json = deepcopy(describe_run(config, state, parts.layout))
    return StagedCheckpoint(folder, state.step, run_json, writer)


def attempt_write(staged: StagedCheckpoint, ranks: Ranks) -> WrittenPart | str:
    """Write this rank's tensors; return what was written, or the reason of a failure. Uses no collectives."""
    try:
        return staged.writer.write()
    except OSError as error:
        return _reason(staged, ranks.rank, error)


def commit_checkpoint(
    staged: StagedCheckpoint, mine: WrittenPart | str, ranks: Ranks, tokenizer_files: Mapping[str, bytes]
) -> Path:
    """Complete the checkpoint that all ranks have written and return its folder; collective over the world.

    The order makes a kill harmless at any time: index and ``run.json`` first, then the marker, ``latest.json`` last.

    Raises:
        RunFailure: on all ranks, if one of them could not write; the folder is then deleted.
    """
    parts: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(parts, mine)
    failure = next((part for part in parts if isinstance(part, str)), "")
    if ranks.is_main and not failure:
        try:
            _complete(staged, parts, tokenizer_files)
        except OSError as error:
            failure = _reason(staged, ranks.rank, error)
    outcome = [failure]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        if ranks.is_main:
            shutil.rmtree(staged.folder, ignore_errors=True)
        raise RunFailure(f"--save {staged.folder.parent}: {outcome[0]}; previous checkpoints are intact")
    return staged.folder


def _stage_state(folder: Path, entries: Entries, parts: TrainedParts, buffers: HostBuffers | None) -> StateWriter:
    content: dict[str, Any] = dict(entries)
    content[RANDOM_STATE_KEY] = random_state_entry(parts.ranks)
    content[OPTIMIZER_STEPS_KEY] = optimizer_steps(parts.optimizer)
    writer = StateWriter(buffers)
    dist_checkpointing.save(content, str(folder), sharded_strategy=writer)
    return writer


def _reason(staged: StagedCheckpoint, rank: int, error: OSError) -> str:
    return f"rank {rank} could not write {error.filename or staged.folder}: {error.strerror or error}"


def _complete(staged: StagedCheckpoint, parts: list[WrittenPart], tokenizer_files: Mapping[str, bytes]) -> None:
    staged.writer.write_index(parts)
    write_json_atomic(staged.folder / RUN_FILE, staged.run_json)
    _write_files(tokenizer_files, staged.folder / TOKENIZER_FOLDER)
    known = {f"{STATE_FOLDER}/{name}": record for part in parts for name, record in part.files.items()}
    mark_complete(staged.folder, known)
    point_latest(staged.folder.parent, staged.step)


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


_SPARE_SHARE, _SPARE_BYTES = 0.01, 2**24
"""For everything but the tensors: headers, index, random states, tokenizer, and the run's metrics."""


def check_free_space(save: Path, step: int, entries: Entries) -> None:
    """Refuse a save if the disk has too little space for all ranks; collective over the world.

    Quotas are not checked here; a write that exceeds one fails and stops the run as well.

    Raises:
        RunFailure: on all ranks, naming needed and free space.
    """
    mine = sum(_stored_bytes(entry) for entry in entries.values())
    sizes: list[Any] = [None] * torch.distributed.get_world_size()
    free = shutil.disk_usage(save).free if torch.distributed.get_rank() == 0 else 0
    torch.distributed.all_gather_object(sizes, (mine, free))
    tensors, free = sum(num_bytes for num_bytes, _ in sizes), sizes[0][1]
    needed = round(tensors * (1 + _SPARE_SHARE)) + _SPARE_BYTES
    if needed > free:
        raise RunFailure(
            f"--save {save}: the disk has {format_bytes(free)} free and the checkpoint of step {step} needs "
            f"{format_bytes(needed)}; previous checkpoints are intact"
        )


def _stored_bytes(entry: Any) -> int:
    """Return the bytes of an entry that this rank writes; only one rank writes a replicated entry."""
    return int(entry.data.nbytes) if entry.data is not None and is_main_replica(entry.replica_id) else 0
