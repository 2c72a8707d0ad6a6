"""Writing sharded tensors from the training process itself."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedObject, ShardedStateDict, is_main_replica
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner, mcore_to_pyt_state_dict
from torch.distributed import checkpoint


class InProcessWriter(SaveShardedStrategy):
    """Writes megatron-core's torch_dist format, one file per rank, and returns when it is on the disk.

    megatron-core's own writer is made for background saving: on every rank it starts a manager process, which imports
    torch anew, and forks writers. For a save that training waits for, that only costs seconds.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects that differ by rank go into the same files."""
        return True

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        """Write this rank's main replicas; collective over the world."""
        shards: dict[str, list[ShardedBase]] = defaultdict(list)
        for entry in nested_values(sharded_state_dict):
            if is_main_replica(entry.replica_id):
                shards[entry.unique_key if isinstance(entry, ShardedObject) else entry.key].append(entry)
        checkpoint.save(
            mcore_to_pyt_state_dict(shards),
            storage_writer=checkpoint.FileSystemWriter(checkpoint_dir, sync_files=True),
            planner=MCoreSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        )
