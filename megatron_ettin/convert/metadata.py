"""The index of a distributed checkpoint, unpickled without trusting it.

``.metadata`` is a pickle, and a pickle may name any function to be called. This reader knows the names of the plain
records that PyTorch's distributed checkpointing puts there, and builds stand-ins of its own for them. So nothing that a
file names is ever run, and ``torch.distributed``, which takes half a second to import, is not needed.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.config.errors import ConfigError

METADATA_FILE = ".metadata"


@dataclass(frozen=True)
class StoredChunk:
    """A part of a tensor, in an archive of its own inside one file."""

    offsets: tuple[int, ...]
    """Where in the tensor it begins."""
    sizes: tuple[int, ...]
    file: str
    begin: int
    """The archive's first byte in the file."""
    num_bytes: int
    """The archive's length."""


@dataclass(frozen=True)
class StoredTensor:
    """What the index says about one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunk, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the parts have as many elements as the tensor."""
        return sum(math.prod(chunk.sizes) for chunk in self.chunks) == math.prod(self.shape)


class _Record:
    """Holds what any record is unpickled with."""

    def __new__(cls, *arguments: Any) -> _Record:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


_CHECKPOINT = "torch.distributed.checkpoint"
_NAMES = {
    f"{_CHECKPOINT}.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    f"{_CHECKPOINT}.filesystem": ("_StorageInfo", "_StoragePrefix"),
    # megatron-core adds every rank's plan.
    f"{_CHECKPOINT}.planner": ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"),
    # Where it was written to, if that was given as a Path.
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath"),
}
_STAND_INS: dict[tuple[str, str], type] = {
    (module, name): type(name, (_Record,), {}) for module, names in _NAMES.items() for name in names
}
_STAND_INS |= {("torch", "Size"): tuple, ("torch.serialization", "_get_layout"): str}


class _RecordUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a record's stand-in or a tensor type; refuse every other name."""
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def read_metadata(state: Path) -> Mapping[str, StoredTensor]:
    """Read the index of the checkpoint files in ``state``: its tensors by name. What is no tensor is left out.

    Raises:
        ConfigError: it is missing, broken, or holds anything but records of PyTorch's distributed checkpointing.
    """
    path = state / METADATA_FILE
    try:
        with path.open("rb") as file:
            tensors = _tensors(_RecordUnpickler(file).load())
    except OSError as error:
        raise ConfigError(f"--load {path}: {error.strerror}") from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise ConfigError(f"--load {path}: is not the index of a checkpoint: {error}") from error
    for tensor in tensors.values():
        for chunk in tensor.chunks:
            if Path(chunk.file).name != chunk.file:
                raise ConfigError(f"--load {path}: points outside its folder, to {chunk.file}")
    return tensors


def _tensors(read: Any) -> dict[str, StoredTensor]:
    places = {(index.fqn, getattr(index, "offset", None)): place for index, place in read.storage_data.items()}
    kind: Any = _STAND_INS[f"{_CHECKPOINT}.metadata", "TensorStorageMetadata"]
    return {
        name: StoredTensor(
            shape=tuple(stored.size),
            dtype=_dtype(stored.properties),
            chunks=tuple(_chunk(chunk, places[name, chunk.offsets]) for chunk in stored.chunks),
        )
        for name, stored in read.state_dict_metadata.items()
        if isinstance(stored, kind)
    }


def _dtype(properties: _Record) -> torch.dtype:
    dtype = properties.state[0]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{dtype!r} is no type of tensors")
    return dtype


def _chunk(chunk: Any, place: Any) -> StoredChunk:
    if getattr(place, "transform_descriptors", None):
        raise ValueError(f"{place.relative_path} is written through {place.transform_descriptors}")
    numbers = (*chunk.offsets, *chunk.sizes, place.offset, place.length)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{place.relative_path} has a part at {numbers}")
    return StoredChunk(tuple(chunk.offsets), tuple(chunk.sizes), str(place.relative_path), place.offset, place.length)
