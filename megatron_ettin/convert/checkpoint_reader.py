"""The index of a distributed checkpoint, unpickled without trusting it.

``.metadata`` is a pickle, and a pickle may name any function to be called. This reader knows the names of the plain
records that PyTorch's distributed checkpointing puts there, and builds stand-ins of its own for them. So nothing that a
file names is ever run, and ``torch.distributed``, which takes half a second to import, is not needed.
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
    def is_complete(self) -> bool:
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


_Read = TypeVar("_Read")


class CheckpointReader:
    """The tensors of one step's folder, read one at a time; optimizer state is never touched."""

    def __init__(self, step_folder: Path) -> None:
        """Read the index.

        Raises:
            ConfigError: there is none, or it cannot be trusted.
        """
        self._state = step_folder / STATE_FOLDER
        self._tensors = read_metadata(self._state)

    def check(self, names: Sequence[TensorName]) -> None:
        """Refuse a checkpoint that lacks one of the tensors or holds one of another shape.

        Raises:
            ConfigError: naming the tensor.
        """
        for name in names:
            stored, wanted = self._stored(name.ours).shape, name.shape
            if name.rows == "vocabulary" and stored[:1] >= wanted[:1]:
                wanted = (stored[0], *wanted[1:])
            if stored != wanted:
                raise ConfigError(f"--load {self._state}: {name.ours} has shape {stored}; run.json tells {wanted}")

    def dtype(self, name: str) -> torch.dtype:
        """Return the type a tensor is stored in."""
        return self._stored(name).dtype

    def tensor(self, name: str) -> Tensor:
        """Read one whole tensor, put together from the parts that ranks have saved.

        Raises:
            ConfigError: it is not there, or its files are missing or damaged.
        """
        stored = self._whole(name)
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        for chunk in stored.chunks:
            part = tensor
            for axis, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                part = part.narrow(axis, offset, size)
            part.copy_(self._open(name, chunk, _load))
        return tensor

    def find_rows(self, name: str, rows: Sequence[range]) -> list[FileSpan] | None:
        """Return where the bytes of some rows of a tensor lie; None where its parts are no whole rows.

        Args:
            name: the tensor.
            rows: blocks of row numbers, in the order in which they are wanted.

        Raises:
            ConfigError: it is not there, or its files are missing or damaged.
        """
        stored = self._whole(name)
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
        except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
            raise ConfigError(f"--load {self._state}: cannot read {name}: {first_line(error)}") from error

    def _whole(self, name: str) -> StoredTensor:
        stored = self._stored(name)
        if not stored.is_complete:
            raise ConfigError(f"--load {self._state}: parts of {name} are missing")
        return stored

    def _stored(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ConfigError(f"--load {self._state}: holds no tensor {name}")
        return self._tensors[name]


def _load(file: io.BufferedReader, chunk: StoredChunk) -> Tensor:
    window = io.BufferedReader(FileWindow(file, chunk.begin, chunk.num_bytes))
    tensor = torch.load(window, map_location="cpu", weights_only=True)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != chunk.sizes:
        raise ValueError(f"{chunk.file} holds something else there")
    return tensor


def _find(file: io.BufferedReader, chunk: StoredChunk, dtype: torch.dtype) -> int | None:
    return find_elements(file, chunk.begin, chunk.num_bytes, chunk.sizes, dtype)
