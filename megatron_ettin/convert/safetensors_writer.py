"""Writing safetensors one tensor at a time: the library's own writer wants a whole file's tensors in memory.

The format: 8 bytes with the header's length (little-endian), the header as JSON, the tensors' bytes end to end.
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
"""Types that weights are released in, and safetensors' words for them."""

TensorBytes = Tensor | Sequence[FileSpan]
"""A tensor in memory, or where its bytes lie in files."""

_BLOCK_BYTES = 1 << 20
"""Read and written at a time, through memory that stays in the processor's cache: a third of the time that a system
call over all of a large tensor takes. The system's own copying from file to file (sendfile, copy_file_range) takes
longer too, since the bytes lie at another place within a page here than there."""


@dataclass(frozen=True)
class TensorEntry:
    """What the header says about one tensor."""

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
        entries: all tensors in the order in which they come.
        tensors: their values; each is written before the next one is taken.
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
    for path, here in groupby(spans, key=lambda span: span.path):
        with path.open("rb", buffering=0) as source:
            for span in here:
                begin, end = span.begin, span.begin + span.num_bytes
                while begin < end:
                    num_read = os.preadv(source.fileno(), [block[: end - begin]], begin)
                    if num_read == 0:
                        raise OSError(f"{path} ends before byte {end}")
                    _write(target, block[:num_read])
                    begin += num_read


def _header(entries: Sequence[TensorEntry]) -> bytes:
    # "pt" tells transformers that the names and layouts are PyTorch's.
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        begin, end = end, end + entry.num_bytes
        described[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    # Spaces bring the data to a multiple of 8 bytes, so that readers may map it into memory as it is.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
