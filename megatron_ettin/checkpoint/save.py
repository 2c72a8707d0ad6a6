"""Writing a checkpoint: tensors by all ranks, then its description, then the marker that makes it one.

``stage_checkpoint``, ``attempt_write``, ``commit_checkpoint``, in this order; training may go on beside the second.
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
    """A checkpoint whose content is settled and whose tensors are still to be written."""

    folder: Path
    step: int
    description: dict[str, Any]
    """Of run.json."""
    writer: StateWriter


def stage_checkpoint(
    save: Path,
    config: RunConfig,
    state: TrainingState,
    parts: TrainedParts,
    buffers: HostBuffers | None = None,
) -> StagedCheckpoint:
    """Settle what the checkpoint of ``state.step`` holds; collective over the world.

    A folder of that step without a marker, which a killed run left, is replaced. With ``buffers`` the tensors are
    copied, and training may go on while they are written; without them it has to wait for that.

    Raises:
        RunFailure: on all ranks, when the disk has no room.
    """
    folder, ranks = save / step_folder_name(state.step), parts.ranks
    if ranks.is_main:
        save.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    entries = training_entries(parts.model, parts.optimizer)
    check_room(save, state.step, entries)
    if ranks.is_main:
        (folder / STATE_FOLDER).mkdir(parents=True)
    torch.distributed.barrier()
    writer = _stage_state(folder / STATE_FOLDER, entries, parts, buffers)
    # A copy too: counters and lists go on while the tensors are written.
    description = deepcopy(describe_run(config, state, parts.layout))
    return StagedCheckpoint(folder, state.step, description, writer)


def attempt_write(staged: StagedCheckpoint, ranks: Ranks) -> WrittenPart | str:
    """Write this rank's tensors and return what was written, or why it was not; talks to no other rank."""
    try:
        return staged.writer.write()
    except OSError as error:
        return _reason(staged, ranks.rank, error)


def commit_checkpoint(
    staged: StagedCheckpoint, mine: WrittenPart | str, ranks: Ranks, tokenizer_files: Mapping[str, bytes]
) -> Path:
    """Make a checkpoint of what all ranks have written and return its folder; collective over the world.

    The order makes a kill harmless at any moment: index and description first, then the marker, ``latest.json`` last.

    Raises:
        RunFailure: on all ranks, when one of them could not write; what was written is removed.
    """
    told: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(told, mine)
    failure = next((part for part in told if isinstance(part, str)), "")
    if ranks.is_main and not failure:
        try:
            _complete(staged, told, tokenizer_files)
        except OSError as error:
            failure = _reason(staged, ranks.rank, error)
    outcome = [failure]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        if ranks.is_main:
            shutil.rmtree(staged.folder, ignore_errors=True)
        raise RunFailure(f"--save {staged.folder.parent}: {outcome[0]}; former checkpoints are whole")
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
    write_json_atomic(staged.folder / RUN_FILE, staged.description)
    _write_files(tokenizer_files, staged.folder / TOKENIZER_FOLDER)
    known = {f"{STATE_FOLDER}/{name}": facts for part in parts for name, facts in part.files.items()}
    mark_complete(staged.folder, known)
    point_latest(staged.folder.parent, staged.step)


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


_SPARE_SHARE, _SPARE_BYTES = 0.01, 2**24
"""For what stands beside the tensors: headers, index, random states, tokenizer, and the run's metrics."""


def check_room(save: Path, step: int, entries: Entries) -> None:
    """Refuse a save that the disk has no room for; collective over the world, whose ranks write into one folder.

    Quotas are not seen here; a write that fails for one stops the run as well, with a half-written folder.

    Raises:
        RunFailure: telling on all ranks what is needed and what there is.
    """
    mine = sum(_stored_bytes(entry) for entry in entries.values())
    told: list[Any] = [None] * torch.distributed.get_world_size()
    free = shutil.disk_usage(save).free if torch.distributed.get_rank() == 0 else 0
    torch.distributed.all_gather_object(told, (mine, free))
    tensors, free = sum(each for each, _ in told), told[0][1]
    needed = round(tensors * (1 + _SPARE_SHARE)) + _SPARE_BYTES
    if needed > free:
        raise RunFailure(
            f"--save {save}: the disk has {format_bytes(free)} free and the checkpoint of step {step} needs "
            f"{format_bytes(needed)}; former checkpoints are whole"
        )


def _stored_bytes(entry: Any) -> int:
    """Return the bytes that this rank writes of an entry; replicas are written by one rank only."""
    return int(entry.data.nbytes) if entry.data is not None and is_main_replica(entry.replica_id) else 0
