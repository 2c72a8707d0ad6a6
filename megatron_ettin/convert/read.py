"""Reading a checkpoint's weights, whatever its layout: one process, no process group, no megatron-core."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from megatron_ettin.checkpoint.layout import STATE_FOLDER
from megatron_ettin.config.errors import ConfigError
from megatron_ettin.convert.archive import FileSpan, FileWindow, find_elements
from megatron_ettin.convert.metadata import StoredChunk, StoredTensor, read_metadata
from megatron_ettin.convert.names import TensorName

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
            raise ConfigError(f"--load {self._state}: cannot read {name}: {_first_line(error)}") from error

    def _whole(self, name: str) -> StoredTensor:
        stored = self._stored(name)
        if not stored.is_whole:
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
