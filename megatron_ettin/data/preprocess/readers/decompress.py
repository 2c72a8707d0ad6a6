"""Bytes of a file, plain or decompressed, with the end of a broken one told apart from an end."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

READ_BYTES = 1 << 20
PACKED_BYTES = 64 << 10
"""Compressed bytes taken at a time: what they become is held in memory."""


class Damaged(ValueError):
    """A file breaks off or holds what its format forbids; what came before has been handed out."""


def read_unpacked(path: str, compression: str) -> Iterator[tuple[bytes, int]]:
    """Yield chunks of about a megabyte of the content, each with how many bytes of the file it took.

    Raises:
        Damaged: the compressed data is broken or ends too early.
    """
    with Path(path).open("rb", buffering=0) as raw:
        if not compression:
            while data := raw.read(READ_BYTES):
                yield data, len(data)
            return
        chunks, taken, held = [], 0, 0
        try:
            for chunk, used in _decompress(raw, compression):
                chunks.append(chunk)
                taken += used
                held += len(chunk)
                if held >= READ_BYTES:
                    yield b"".join(chunks), taken
                    chunks, taken, held = [], 0, 0
        except Damaged:
            yield b"".join(chunks), taken
            raise
        yield b"".join(chunks), taken


def _decompress(file: io.RawIOBase | BinaryIO, compression: str) -> Iterator[tuple[bytes, int]]:
    name = {"gz": "gzip", "zst": "zstd"}[compression]
    error_type, new = _decompressor(compression)
    unpacker = None
    while data := file.read(PACKED_BYTES):
        used = len(data)
        while data:
            if unpacker is None or unpacker.eof:  # one file may be several, end to end
                if unpacker is not None and not data.strip(b"\0"):
                    break  # filled up with zeros, as gzip allows
                unpacker = new()
            try:
                chunk = unpacker.decompress(data)
            except error_type as error:
                if "too much memory" in str(error):
                    raise Damaged("was packed with zstd's --long and a window above 128 MB; pack it anew") from None
                raise Damaged(f"the {name} data is damaged ({error})") from None
            data = unpacker.unused_data if unpacker.eof else b""
            yield chunk, used
            used = 0
    if unpacker is None or not unpacker.eof:  # an empty file too is one that was cut off
        raise Damaged(f"the {name} data is damaged (it ends too early)")


def _decompressor(compression: str) -> tuple[type[Exception], Any]:
    if compression == "gz":
        return zlib.error, lambda: zlib.decompressobj(wbits=31)
    import zstandard  # only where there is such a file

    return zstandard.ZstdError, lambda: zstandard.ZstdDecompressor().decompressobj()
