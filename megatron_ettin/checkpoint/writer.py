"""Sharded tensors into files: planned by all ranks together, then written by each alone, now or in the background."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedObject, ShardedStateDict, is_main_replica
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner, mcore_to_pyt_state_dict
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_ettin.checkpoint.folder.integrity import ChecksummedFile, FileRecord, open_checksummed


@dataclass(frozen=True)
class WrittenPart:
    """What one rank has written, on the disk."""

    results: list[WriteResult]
    """Where each tensor lies: the index of the checkpoint is made of them."""
    files: dict[str, FileRecord]
    """By name inside the state folder."""


class StateWriter(SaveShardedStrategy):
    """Writes megatron-core's torch_dist format, one file per rank: :meth:`save` plans it, :meth:`write` does it.

    megatron-core's own writers start processes, which import torch anew, or fork a process that holds a CUDA context.
    Here the training process writes by itself, from any thread: only planning talks to other ranks.
    """

    def __init__(self, buffers: HostBuffers | None = None) -> None:
        """Prepare one save.

        Args:
            buffers: where to copy tensors while planning, so that they may change before they are written; without
                them they are read as they are written.
        """
        super().__init__("torch_dist", 1)
        self._planner = _SnapshotPlanner(buffers)
        self._storage: _DeferredStorage | None = None

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects that differ by rank go into the same files."""
        return True

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        """Agree on who writes what, and copy this rank's part where there are buffers; collective over the world."""
        shards: dict[str, list[ShardedBase]] = defaultdict(list)
        for entry in nested_values(sharded_state_dict):
            if is_main_replica(entry.replica_id):
                shards[entry.unique_key if isinstance(entry, ShardedObject) else entry.key].append(entry)
        self._storage = _DeferredStorage(checkpoint_dir)
        checkpoint.save(mcore_to_pyt_state_dict(shards), storage_writer=self._storage, planner=self._planner)

    def write(self) -> WrittenPart:
        """Write this rank's file and flush it to the disk; talks to no other rank.

        Raises:
            OSError: naming the file.
        """
        assert self._storage is not None, "planned before written"
        return self._storage.write(self._planner)

    def write_index(self, parts: Sequence[WrittenPart]) -> None:
        """Write on the main rank where all ranks' tensors lie; talks to no other rank."""
        assert self._storage is not None, "planned before written"
        self._storage.write_index(parts)


class _SnapshotPlanner(MCoreSavePlanner):
    """Gives tensors to be written, as they are or as they were when :meth:`hold` was called."""

    def __init__(self, buffers: HostBuffers | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._buffers = buffers
        self._held: dict[Any, Any] = {}

    def hold(self, plan: SavePlan) -> None:
        """Copy what the plan names, if there are buffers, and let go of the training's own tensors."""
        if self._buffers is None:
            return
        for item in plan.items:
            data = super().resolve_data(item)
            # What is no tensor has been serialised already.
            key = (item.index.fqn, item.index.offset)
            self._held[item.index] = self._buffers.copy(key, data) if isinstance(data, torch.Tensor) else data
        self._buffers.wait()
        self.state_dict: dict[str, Any] = {}

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return a tensor, or the bytes of an object."""
        return self._held[write_item.index] if self._held else super().resolve_data(write_item)


class _DeferredStorage(checkpoint.FileSystemWriter):
    """PyTorch's writer, which keeps what it is told to write until :meth:`write`."""

    def __init__(self, folder: str | Path) -> None:
        # Nothing is copied ahead from a GPU: the copies are on the host, and a background thread stays off the device.
        super().__init__(folder, sync_files=True, per_thread_copy_ahead=0)
        self._files = _ChecksummedFiles()
        self.fs = self._files
        self._plan: SavePlan | None = None
        self._metadata: Metadata | None = None

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        assert isinstance(planner, _SnapshotPlanner)
        self._plan = plan
        planner.hold(plan)
        nothing: Future[list[WriteResult]] = Future()
        nothing.set_result([])
        return nothing

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        self._metadata = metadata

    def write(self, planner: SavePlanner) -> WrittenPart:
        assert self._plan is not None
        try:
            results = super().write_data(self._plan, planner).wait()
        except OSError:
            raise
        except Exception as error:
            self._files.raise_first_error()  # torch's zip writer stumbled over it and tells something else
            raise OSError(f"{type(error).__name__}: {error}") from error
        return WrittenPart(results, self._files.facts)

    def write_index(self, parts: Sequence[WrittenPart]) -> None:
        assert self._metadata is not None
        super().finish(self._metadata, [part.results for part in parts])


class _ChecksummedFiles(FileSystem):
    """The local file system, which remembers size and checksum of all that was written through it."""

    def __init__(self) -> None:
        self._written: dict[Path, ChecksummedFile] = {}

    @property
    def facts(self) -> dict[str, FileRecord]:
        return {path.name: file.record for path, file in self._written.items()}

    def raise_first_error(self) -> None:
        for path, file in self._written.items():
            if file.error is not None:
                raise OSError(file.error.errno, file.error.strerror, str(path)) from file.error

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        assert mode == "wb"
        with open_checksummed(Path(path)) as file:
            self._written[Path(path)] = file
            yield file


class HostBuffers:
    """One buffer for each tensor that a rank saves, allocated at the first save and used again by all later ones.

    They take as much host memory as this rank's part of a checkpoint. Next to a GPU they are pinned, so that copies
    run at the speed of the bus.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers: dict[Hashable, Tensor] = {}

    def copy(self, key: Hashable, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor and return the copy, which holds it after :meth:`wait`."""
        buffer = self._buffers.get(key)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self._pinned)
            self._buffers[key] = buffer
        buffer.copy_(tensor.detach(), non_blocking=self._pinned)
        return buffer

    def wait(self) -> None:
        """Return when all copies have been made."""
        if self._pinned:
            torch.cuda.synchronize()
