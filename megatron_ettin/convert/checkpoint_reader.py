"""Read the tensors of a distributed checkpoint, without ``torch.distributed`` and without trusting its pickles.

The index, ``.metadata``, is a pickle, and a pickle may call any function it names. The unpickler here accepts only the
plain records of PyTorch's distributed checkpointing and builds stand-ins for them, so nothing that a file names is run.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from megatron_ettin.checkpoint.folder.layout import STATE_FOLDER
from megatron_ettin.convert.file_spans import FileSpan, FileWindow, find_elements
from megatron_ettin.convert.tensor_names import TensorName
from megatron_ettin.errors import ConfigError, first_line

METADATA_FILE = ".metadata"

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class StoredChunk:
    """A block of a tensor, stored as an archive of its own inside a file."""

    offsets: tuple[int, ...]
    """Its first element in the tensor."""
    sizes: tuple[int, ...]
    file: str
    begin: int
    """The archive's first byte in the file."""
    num_bytes: int
    """Length of the archive."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the index describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunk, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the chunks have as many elements as the tensor."""
        return sum(math.prod(chunk.sizes) for chunk in self.chunks) == math.prod(self.shape)


class CheckpointReader:
    """The tensors of one step's folder, read one at a time; optimizer state is not read."""

    def __init__(self, step_folder: Path) -> None:
        """Read the index.

        Raises:
            ConfigError: the index is missing or is not one of a checkpoint.
        """
        self._state = step_folder / STATE_FOLDER
        self._tensors = read_metadata(self._state)

    def check(self, names: Sequence[TensorName]) -> None:
        """Check that all tensors exist with the shapes that the model has.

        Raises:
            ConfigError: a tensor is missing or has another shape.
        """
        for name in names:
            stored, expected = self._stored(name.canonical).shape, name.shape
            if name.rows == "vocabulary" and stored[:1] >= expected[:1]:
                expected = (stored[0], *expected[1:])
            if stored != expected:
                rule = f"{name.canonical} has shape {stored}; by run.json it is {expected}"
                raise ConfigError(f"--load {self._state}: {rule}")

    def dtype(self, name: str) -> torch.dtype:
        """Return the type a tensor is stored in."""
        return self._stored(name).dtype

    def tensor(self, name: str) -> Tensor:
        """Read one full tensor, assembled from the chunks that the ranks saved.

        Raises:
            ConfigError: it does not exist, or its files are missing or damaged.
        """
        stored = self._complete(name)
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        for chunk in stored.chunks:
            part = tensor
            for axis, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                part = part.narrow(axis, offset, size)
            part.copy_(self._open(name, chunk, _load))
        return tensor

    def find_rows(self, name: str, rows: Sequence[range]) -> list[FileSpan] | None:
        """Return the byte ranges of some rows of a tensor; None where its chunks split rows.

        Args:
            name: the tensor.
            rows: blocks of row numbers, in the order of the result.

        Raises:
            ConfigError: the tensor does not exist, or its files are missing or damaged.
        """
        stored = self._complete(name)
        if any(chunk.sizes[1:] != stored.shape[1:] for chunk in stored.chunks):
            return None
        row_bytes = stored.dtype.itemsize * math.prod(stored.shape[1:])
        starts = []
        for chunk in sorted(stored.chunks, key=lambda chunk: chunk.offsets):
            start = self._open(name, chunk, lambda file, chunk: _find(file, chunk, stored.dtype))
            if start is None:
                return None
            starts.append((chunk, start))
        spans = []
        for block in rows:
            for chunk, start in starts:
                first = chunk.offsets[0]
                common = range(max(block.start, first), min(block.stop, first + chunk.sizes[0]))
                if common:
                    begin = start + (common.start - first) * row_bytes
                    spans.append(FileSpan(self._state / chunk.file, begin, len(common) * row_bytes))
        return spans

    def _open(self, name: str, chunk: StoredChunk, read: Callable[[io.BufferedReader, StoredChunk], _Read]) -> _Read:
        try:
            with (self._state / chunk.file).open("rb") as file:
                return read(file, chunk)
        except Exception as error:  # the type depends on the damage
            raise ConfigError(f"--load {self._state}: cannot read {name}: {first_line(error)}") from error

    def _complete(self, name: str) -> StoredTensor:
        stored = self._stored(name)
        if not stored.is_complete:
            raise ConfigError(f"--load {self._state}: parts of {name} are missing")
        return stored

    def _stored(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ConfigError(f"--load {self._state}: has no tensor {name}")
        return self._tensors[name]


def _load(file: io.BufferedReader, chunk: StoredChunk) -> Tensor:
    window = io.BufferedReader(FileWindow(file, chunk.begin, chunk.num_bytes))
    tensor = torch.load(window, map_location="cpu", weights_only=True)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != chunk.sizes:
        raise ValueError(f"{chunk.file} contains something else there")
    return tensor


def _find(file: io.BufferedReader, chunk: StoredChunk, dtype: torch.dtype) -> int | None:
    return find_elements(file, chunk.begin, chunk.num_bytes, chunk.sizes, dtype)


def read_metadata(state: Path) -> Mapping[str, StoredTensor]:
    """Read the index of the checkpoint files in ``state``: its tensors by name, without other objects.

    Raises:
        ConfigError: the index is missing, broken, or contains other records than distributed checkpointing writes.
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


class _Record:
    """Stand-in for a record: keeps the arguments and the state that it is unpickled with."""

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
    # megatron-core adds the plan of each rank.
    f"{_CHECKPOINT}.planner": ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"),
    # The folder it was written to, if that was given as a Path.
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


def _tensors(metadata: Any) -> dict[str, StoredTensor]:
    places = {(index.fqn, getattr(index, "offset", None)): place for index, place in metadata.storage_data.items()}
    kind: Any = _STAND_INS[f"{_CHECKPOINT}.metadata", "TensorStorageMetadata"]
    return {
        name: StoredTensor(
            shape=tuple(stored.size),
            dtype=_dtype(stored.properties),
            chunks=tuple(_chunk(chunk, places[name, chunk.offsets]) for chunk in stored.chunks),
        )
        for name, stored in metadata.state_dict_metadata.items()
        if isinstance(stored, kind)
    }


def _dtype(properties: _Record) -> torch.dtype:
    dtype = properties.state[0]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{dtype!r} is not a type of tensors")
    return dtype


def _chunk(chunk: Any, place: Any) -> StoredChunk:
    if getattr(place, "transform_descriptors", None):
        raise ValueError(f"{place.relative_path} is written through {place.transform_descriptors}")
    numbers = (*chunk.offsets, *chunk.sizes, place.offset, place.length)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{place.relative_path} has a chunk at {numbers}")
    return StoredChunk(tuple(chunk.offsets), tuple(chunk.sizes), str(place.relative_path), place.offset, place.length)
