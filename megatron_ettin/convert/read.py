"""Reading a checkpoint's weights, whatever its layout: one process, no process group, no megatron-core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_ettin.checkpoint.layout import STATE_FOLDER
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.convert.metadata import read_metadata
from megatron_ettin.convert.names import TensorName


class CheckpointReader:
    """The tensors of one step's folder, read one at a time; optimizer state is never touched."""

    def __init__(self, step_folder: Path) -> None:
        """Read the index.

        Raises:
            ConfigError: there is none, or it cannot be trusted.
        """
        self._state = step_folder / STATE_FOLDER
        self._metadata = read_metadata(self._state)
        self._files = FileSystemReader(self._state)
        self._files.set_up_storage_reader(self._metadata, is_coordinator=True)

    def check(self, names: Sequence[TensorName]) -> None:
        """Refuse a checkpoint that lacks one of the tensors or holds one of another shape.

        Raises:
            ConfigError: naming the tensor.
        """
        for name in names:
            stored, wanted = tuple(self._stored(name.ours).size), name.shape
            if name.rows == "vocabulary" and stored[:1] >= wanted[:1]:
                wanted = (stored[0], *wanted[1:])
            if stored != wanted:
                raise ConfigError(f"--load {self._state}: {name.ours} has shape {stored}; run.json tells {wanted}")

    def dtype(self, name: str) -> torch.dtype:
        """Return the type a tensor is stored in."""
        return self._stored(name).properties.dtype

    def tensor(self, name: str) -> Tensor:
        """Read one whole tensor, put together from the parts that ranks have saved.

        Raises:
            ConfigError: it is not there, or its files are missing or damaged.
        """
        stored = self._stored(name)
        if sum(math.prod(chunk.sizes) for chunk in stored.chunks) != math.prod(stored.size):
            raise ConfigError(f"--load {self._state}: parts of {name} are missing")
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner({name: tensor}, self._metadata, is_coordinator=True)
        try:
            self._files.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()
        except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
            raise ConfigError(f"--load {self._state}: cannot read {name}: {_first_line(error)}") from error
        return tensor

    def _stored(self, name: str) -> TensorStorageMetadata:
        stored = self._metadata.state_dict_metadata.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise ConfigError(f"--load {self._state}: holds no tensor {name}")
        return stored


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
