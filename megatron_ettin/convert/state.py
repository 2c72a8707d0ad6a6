"""Writing tensors as a distributed checkpoint that megatron-core loads, with PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint.planner import WriteItem

from megatron_ettin.checkpoint.layout import write_json_atomic
from megatron_ettin.convert.safetensors_file import TensorEntry


def write_state(folder: Path, entries: Sequence[TensorEntry], load: Callable[[str], Tensor]) -> None:
    """Write the tensors, one at a time.

    Args:
        folder: a new folder.
        entries: name, shape and type of each.
        load: gives the value of a name when its turn has come.
    """
    folder.mkdir()
    planner = _StreamingPlanner(load)
    # A file for each tensor: PyTorch's writer holds all tensors of a file until it is complete.
    writer = FileSystemWriter(folder, single_file_per_rank=False, sync_files=True)
    planner.set_up_planner({entry.name: _shape_only(entry) for entry in entries}, is_coordinator=True)
    writer.set_up_storage_writer(is_coordinator=True)
    plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[0])
    try:
        writer.finish(metadata, [writer.write_data(plan, planner).wait()])
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what the disk said, before torch's zip writer stumbled over it
            raise error.__context__ from None
        raise
    # What megatron-core adds: everything that is no tensor, and which backends wrote the rest.
    torch.save({}, folder / "common.pt")
    backends = {"sharded_backend": "torch_dist", "common_backend": "torch"}
    write_json_atomic(folder / "metadata.json", backends | {f"{backend}_version": 1 for backend in backends})


def _shape_only(entry: TensorEntry) -> Tensor:
    return torch.empty(entry.shape, dtype=entry.dtype, device="meta")


class _StreamingPlanner(DefaultSavePlanner):
    """Plans with shapes and asks for the values only when they are written."""

    def __init__(self, load: Callable[[str], Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._load = load

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self._load(write_item.index.fqn)
