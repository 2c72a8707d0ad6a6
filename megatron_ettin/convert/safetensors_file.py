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
from pathlib import Path

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Types that weights are released in, and safetensors' words for them."""


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


def write_safetensors(path: Path, entries: Sequence[TensorEntry], tensors: Iterable[Tensor]) -> None:
    """Write a file and flush it to the disk.

    Args:
        path: the new file.
        entries: all tensors in the order in which they come.
        tensors: their values; each is written before the next one is taken.
    """
    with path.open("wb") as file:
        file.write(_header(entries))
        for entry, tensor in zip(entries, tensors, strict=True):
            assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), entry
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


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
