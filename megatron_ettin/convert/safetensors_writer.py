"""Write a safetensors file one tensor at a time; the library's writer needs all tensors of a file in memory.

The format: the header's length as 8 little-endian bytes, the header as JSON, the tensors' bytes one after another.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from megatron_ettin.convert.file_spans import FileSpan

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Types of released weights, and their names in safetensors."""

TensorBytes = Tensor | Sequence[FileSpan]
"""A tensor in memory, or the byte ranges of files that it consists of."""

_BLOCK_BYTES = 1 << 20
"""Bytes copied at a time through a buffer that fits the CPU cache: three times as fast as one system call for a large
tensor. sendfile and copy_file_range are slower too, since source and target are not aligned to each other in a page."""


@dataclass(frozen=True)
class TensorEntry:
    """The header's entry of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, entries: Sequence[TensorEntry], tensors: Iterable[TensorBytes]) -> None:
    """Write a file and flush it to the disk.

    Args:
        path: the new file.
        entries: all tensors, in order.
        tensors: their values, in the same order; each is written before the next is requested.
    """
    with path.open("wb", buffering=0) as file:
        _write(file.fileno(), _header(entries))
        for entry, tensor in zip(entries, tensors, strict=True):
            if isinstance(tensor, Tensor):
                assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), entry
                _write(file.fileno(), tensor.contiguous().view(torch.uint8).numpy().data)
            else:
                assert sum(span.num_bytes for span in tensor) == entry.num_bytes, entry
                _copy(file.fileno(), tensor)
        os.fsync(file.fileno())


def _write(target: int, values: bytes | memoryview) -> None:
    view = memoryview(values).cast("B")
    while view:
        view = view[os.write(target, view[:_BLOCK_BYTES]) :]


def _copy(target: int, spans: Sequence[FileSpan]) -> None:
    block = memoryview(bytearray(max(min(span.num_bytes, _BLOCK_BYTES) for span in spans)))
    for path, of_file in groupby(spans, key=lambda span: span.path):
        with path.open("rb", buffering=0) as source:
            for span in of_file:
                begin, end = span.begin, span.begin + span.num_bytes
                while begin < end:
                    num_read = os.preadv(source.fileno(), [block[: end - begin]], begin)
                    if num_read == 0:
                        raise OSError(f"{path} ends before byte {end}")
                    _write(target, block[:num_read])
                    begin += num_read


def _header(entries: Sequence[TensorEntry]) -> bytes:
    # transformers requires the format: "pt" for PyTorch's names and layouts.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        begin, end = end, end + entry.num_bytes
        header[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    # Padding with spaces aligns the data to 8 bytes, so that readers can memory-map it.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
