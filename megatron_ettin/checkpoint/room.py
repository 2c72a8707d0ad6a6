"""Whether the disk has room for a checkpoint, asked before anything of it is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed
from megatron.core.dist_checkpointing.mapping import is_main_replica

from megatron_ettin.checkpoint.tensors import Entries
from megatron_ettin.config.errors import RunFailure

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
            f"--save {save}: the disk has {_size(free)} free and the checkpoint of step {step} needs {_size(needed)}; "
            "former checkpoints are whole"
        )


def _stored_bytes(entry: Any) -> int:
    """Return the bytes that this rank writes of an entry; replicas are written by one rank only."""
    return int(entry.data.nbytes) if entry.data is not None and is_main_replica(entry.replica_id) else 0


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
