"""Sharded tensors to files: planned by all ranks together, written by each alone, now or in the background."""

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
    """What one rank has written to the disk."""

    results: list[WriteResult]
    """The place of each tensor, for the index of the checkpoint."""
    files: dict[str, FileRecord]
    """Size and checksum, by name inside the state folder."""


class StateWriter(SaveShardedStrategy):
    """Writes megatron-core's torch_dist format, one file per rank: :meth:`save` plans, :meth:`write` writes.

    megatron-core's own writers spawn processes, which import torch again, or fork a process with a CUDA context. Here
    the training process itself writes, from any thread; only planning is collective.
    """

    def __init__(self, buffers: HostBuffers | None = None) -> None:
        """Prepare one save.

        Args:
            buffers: copies of the tensors, made while planning, so that the tensors may change before the write;
                without buffers the tensors are read during the write.
        """
        super().__init__("torch_dist", 1)
        self._planner = _SnapshotPlanner(buffers)
        self._storage: _DeferredStorage | None = None

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects that differ by rank are stored in the same files."""
        return True

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        """Plan which rank writes what, and copy this rank's part if there are buffers; collective over the world."""
        shards: dict[str, list[ShardedBase]] = defaultdict(list)
        for entry in nested_values(sharded_state_dict):
            if is_main_replica(entry.replica_id):
                shards[entry.unique_key if isinstance(entry, ShardedObject) else entry.key].append(entry)
        self._storage = _DeferredStorage(checkpoint_dir)
        checkpoint.save(mcore_to_pyt_state_dict(shards), storage_writer=self._storage, planner=self._planner)

    def write(self) -> WrittenPart:
        """Write this rank's file and flush it to the disk; uses no collectives.

        Raises:
            OSError: naming the file.
        """
        assert self._storage is not None, "save comes before write"
        return self._storage.write(self._planner)

    def write_index(self, parts: Sequence[WrittenPart]) -> None:
        """Write the index of all ranks' tensors, on the main rank; uses no collectives."""
        assert self._storage is not None, "save comes before write"
        self._storage.write_index(parts)


class _SnapshotPlanner(MCoreSavePlanner):
    """Provides the tensors to write: as they are, or as they were when :meth:`copy` was called."""

    def __init__(self, buffers: HostBuffers | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._buffers = buffers
        self._copies: dict[Any, Any] = {}

    def copy(self, plan: SavePlan) -> None:
        """Copy the tensors of the plan, if there are buffers, and drop the references to the originals."""
        if self._buffers is None:
            return
        for item in plan.items:
            data = super().resolve_data(item)
            # Other objects are serialized already.
            key = (item.index.fqn, item.index.offset)
            self._copies[item.index] = self._buffers.copy(key, data) if isinstance(data, torch.Tensor) else data
        self._buffers.wait()
        self.state_dict: dict[str, Any] = {}

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return a tensor, or the bytes of an object."""
        return self._copies[write_item.index] if self._copies else super().resolve_data(write_item)


class _DeferredStorage(checkpoint.FileSystemWriter):
    """PyTorch's writer, which postpones all writing to :meth:`write`."""

    def __init__(self, folder: str | Path) -> None:
        # No copies ahead from a GPU: the buffers are on the host, and a background thread must not use the device.
        super().__init__(folder, sync_files=True, per_thread_copy_ahead=0)
        self._files = _ChecksummedFiles()
        self.fs = self._files
        self._plan: SavePlan | None = None
        self._metadata: Metadata | None = None

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        assert isinstance(planner, _SnapshotPlanner)
        self._plan = plan
        planner.copy(plan)
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
            self._files.raise_first_error()  # the cause, which torch's zip writer hides
            raise OSError(f"{type(error).__name__}: {error}") from error
        return WrittenPart(results, self._files.records)

    def write_index(self, parts: Sequence[WrittenPart]) -> None:
        assert self._metadata is not None
        super().finish(self._metadata, [part.results for part in parts])


class _ChecksummedFiles(FileSystem):
    """The local file system, recording size and checksum of every written file."""

    def __init__(self) -> None:
        self._written: dict[Path, ChecksummedFile] = {}

    @property
    def records(self) -> dict[str, FileRecord]:
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
    """One buffer for each tensor that a rank saves, allocated at the first save and reused by later ones.

    They take as much host memory as this rank's part of a checkpoint. For copies from a GPU they are pinned.
    """

    def __init__(self, *, pinned: bool) -> None:
        """Create an empty set of buffers in pinned or ordinary memory."""
        self._pinned = pinned
        self._buffers: dict[Hashable, Tensor] = {}

    def copy(self, key: Hashable, tensor: Tensor) -> Tensor:
        """Start to copy a tensor and return the copy, which is valid after :meth:`wait`."""
        buffer = self._buffers.get(key)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=self._pinned)
            self._buffers[key] = buffer
        buffer.copy_(tensor.detach(), non_blocking=self._pinned)
        return buffer

    def wait(self) -> None:
        """Wait until all copies are done."""
        if self._pinned:
            torch.cuda.synchronize()
