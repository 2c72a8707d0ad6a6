"""Read shards of MDS, the format of mosaicml-streaming.

A shard is a little-endian uint32 number of samples, the uint32 offset of each sample and of the end, a JSON object that
describes the columns, and the samples. A sample is the uint32 sizes of its columns of variable size, then the columns.
Columns of pickled Python objects are never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.preprocess.readers.decompress import Damaged, read_decompressed
from megatron_ettin.data.preprocess.readers.records import BATCH_BYTES, Batch, InputFile

_ARRAY_TYPES = {8: "u1", 9: "i1", 16: "u2", 17: "i2", 32: "u4", 33: "i4", 64: "u8", 65: "i8"}
"""First byte of an array whose type its column does not fix; integers only, since the values are token ids."""
_SIZE_TYPES = ("u1", "u2", "u4", "u8")


def read_mds(number: int, file: InputFile, keys: Sequence[str]) -> Iterator[Batch]:
    """Yield the samples; a value is a text or an array of token ids."""
    row = 1
    try:
        # A shard has some tens of megabytes, and its writer held it in memory as well.
        content = b"".join(chunk for chunk, _ in read_decompressed(file.path, file.compression))
        shard = _Shard(content, keys)
        read_bytes = 0
        while row <= shard.num_samples:
            last = shard.last_of_batch(row)
            records = [shard.sample(sample) for sample in range(row, last + 1)]
            until = file.num_bytes * last // shard.num_samples
            text_bytes = int(shard.offsets[last] - shard.offsets[row - 1])
            yield Batch(number, "values", range(row, last + 1), records, text_bytes, until - read_bytes)
            row, read_bytes = last + 1, until
    except (Damaged, ValueError, KeyError, IndexError, TypeError) as error:
        yield Batch(number, "values", [], [], 0, 0, damage=(row, str(error) or type(error).__name__))


class _Shard:
    def __init__(self, content: bytes, keys: Sequence[str]) -> None:
        self._content = content
        if len(content) < 4:
            raise Damaged("the shard is truncated")
        self.num_samples = int(np.frombuffer(content, "<u4", 1)[0])
        header_end = 4 * (self.num_samples + 2)
        if len(content) < header_end:
            raise Damaged("the shard is truncated")
        self.offsets = np.frombuffer(content, "<u4", self.num_samples + 1, 4).astype(np.int64)
        if self.offsets[-1] != len(content) or (np.diff(self.offsets) < 0).any() or self.offsets[0] < header_end:
            raise Damaged(f"the shard has {len(content)} bytes, its header says {self.offsets[-1]}")
        columns = json.loads(content[header_end : self.offsets[0]])
        names = columns["column_names"]
        missing = [key for key in keys if key not in names]
        if missing:
            raise Damaged(f'there is no column "{missing[0]}" (its columns: {", ".join(names)})')
        repeated = [key for key in keys if names.count(key) > 1]
        if repeated:
            raise Damaged(f'there are {names.count(repeated[0])} columns "{repeated[0]}"')
        self._sizes: list[int | None] = columns["column_sizes"]
        encodings = columns["column_encodings"]
        self._decoders = [(names.index(key), _decoder(encodings[names.index(key)])) for key in keys]

    def last_of_batch(self, first: int) -> int:
        """Return the last sample of the batch that starts with sample ``first``."""
        end = self.offsets[first - 1] + BATCH_BYTES
        return max(first, int(self.offsets[1:].searchsorted(end, side="right")))

    def sample(self, number: int) -> tuple[Any, ...]:
        """Return the requested columns of a sample, numbered from 1."""
        start, end = self.offsets[number - 1], self.offsets[number]
        sizes = np.array([size or 0 for size in self._sizes], np.int64)
        variable = [place for place, size in enumerate(self._sizes) if not size]
        sizes[variable] = np.frombuffer(self._content, "<u4", len(variable), start)
        edges = start + 4 * len(variable) + np.concatenate(([0], np.cumsum(sizes)))
        if edges[-1] != end:
            raise Damaged(f"the columns of sample {number} do not add up to its size")
        return tuple(decode(self._content[edges[place] : edges[place + 1]]) for place, decode in self._decoders)


def _decoder(encoding: str) -> Callable[[bytes], Any]:
    kind, _, rest = encoding.partition(":")
    if kind in ("str", "bytes"):
        return lambda data: data  # decoded later, where invalid UTF-8 is one bad record
    if kind == "ndarray":
        dtype, _, shape = rest.partition(":")
        return lambda data: _array(data, dtype, has_shape=bool(shape))
    raise Damaged(f"a column of {encoding} has neither text nor token ids")


def _array(data: bytes, dtype: str, *, has_shape: bool) -> NDArray[np.integer]:
    place = 0
    if not dtype:
        dtype = _ARRAY_TYPES[data[0]]
        place = 1
    if not has_shape:
        dimensions, size_type = data[place] >> 2, _SIZE_TYPES[data[place] & 3]
        place += 1 + dimensions * np.dtype(size_type).itemsize
    array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), offset=place)
    if array.dtype.kind not in "ui":
        raise Damaged(f"a column of {dtype} has no token ids")
    return array
