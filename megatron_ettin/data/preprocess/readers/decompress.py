"""Read a file's bytes, plain or decompressed, and detect data that is damaged or truncated."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

READ_BYTES = 1 << 20
COMPRESSED_BYTES = 64 << 10
"""Compressed bytes read at a time; their decompressed content is held in memory."""


class Damaged(ValueError):
    """A file is truncated or violates its format; everything before the damage has been yielded."""


def read_decompressed(path: str, compression: str) -> Iterator[tuple[bytes, int]]:
    """Yield the content in chunks of about a megabyte, each with the number of bytes it takes on disk.

    Raises:
        Damaged: the compressed data is corrupt or truncated.
    """
    with Path(path).open("rb", buffering=0) as raw:
        if not compression:
            while data := raw.read(READ_BYTES):
                yield data, len(data)
            return
        chunks, input_bytes, num_bytes = [], 0, 0
        try:
            for chunk, used in _decompress(raw, compression):
                chunks.append(chunk)
                input_bytes += used
                num_bytes += len(chunk)
                if num_bytes >= READ_BYTES:
                    yield b"".join(chunks), input_bytes
                    chunks, input_bytes, num_bytes = [], 0, 0
        except Damaged:
            yield b"".join(chunks), input_bytes
            raise
        yield b"".join(chunks), input_bytes


def _decompress(file: io.RawIOBase | BinaryIO, compression: str) -> Iterator[tuple[bytes, int]]:
    name = {"gz": "gzip", "zst": "zstd", "bz2": "bzip2", "xz": "xz"}[compression]
    error_type, new = _decompressor(compression)
    decompressor = None
    while data := file.read(COMPRESSED_BYTES):
        used = len(data)
        while data:
            if decompressor is None or decompressor.eof:  # a file may consist of several members
                if decompressor is not None and not data.strip(b"\0"):
                    break  # gzip and xz allow zero padding at the end
                decompressor = new()
            try:
                chunk = decompressor.decompress(data)
            except error_type as error:
                if "too much memory" in str(error):
                    rule = "was compressed with zstd --long and a window above 128 MB; compress it with a smaller one"
                    raise Damaged(rule) from None
                raise Damaged(f"the {name} data is damaged ({error})") from None
            data = decompressor.unused_data if decompressor.eof else b""
            yield chunk, used
            used = 0
    if decompressor is None or not decompressor.eof:  # an empty file is truncated as well
        raise Damaged(f"the {name} data is damaged (it ends too early)")


def _decompressor(compression: str) -> tuple[type[Exception], Any]:
    if compression == "gz":
        return zlib.error, lambda: zlib.decompressobj(wbits=31)
    if compression == "bz2":
        return OSError, bz2.BZ2Decompressor
    if compression == "xz":
        return lzma.LZMAError, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)
    import zstandard  # imported only for inputs that need it

    return zstandard.ZstdError, lambda: zstandard.ZstdDecompressor().decompressobj()
