"""Parameter count and checksum of a model's weight files, without loading them."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import file_sha256

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_LONGEST_HEADER_BYTES = 100_000_000
"""The format's limit."""

_OUTPUT_MATRICES = ("lm_head.weight", "decoder.weight", "embed_out.weight")
"""Endings of the output matrix's name, which some models store although it is tied to the embedding."""


def find_weight_files(folder: Path) -> list[Path]:
    """Return a model's safetensors files.

    Raises:
        ConfigError: there are none, or one named by the index is missing.
    """
    index = folder / _INDEX_FILE
    if index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if not names:
            raise ConfigError(f"--model {folder}: {index.name} names no files")
        files = [folder / name for name in names]
    else:
        files = [folder / _SINGLE_FILE]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"--model {folder}: has no {file.name}, and weights are read from safetensors only")
    return files


def count_parameters(files: Sequence[Path], *, is_tied: bool) -> int:
    """Return the number of distinct weights, integer buffers excluded.

    Args:
        files: all weight files of the model.
        is_tied: whether the output matrix is the embedding, which counts once even if both are stored.

    Raises:
        ConfigError: a file is not a safetensors file.
    """
    shapes = {
        name: tuple(entry["shape"])
        for file in files
        for name, entry in _read_header(file).items()
        if entry["dtype"].startswith(("F", "BF"))
    }
    outputs = [name for name in shapes if name.endswith(_OUTPUT_MATRICES)] if is_tied else []
    stored_twice = [name for name in outputs if list(shapes.values()).count(shapes[name]) > 1]
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in stored_twice)


def checksum_of(folder: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 over the files that determine the model's output: weights, config.json and tokenizer.json."""
    total = hashlib.sha256()
    for path in (*files, folder / CONFIG_FILE, folder / TOKENIZER_FILE):
        if path.is_file():
            total.update(f"{path.name} {file_sha256(path)}\n".encode())
    return total.hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    """Return name -> dtype, shape, data_offsets.

    The format: eight bytes with the length of the JSON that follows (huggingface.co/docs/safetensors).
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(length) if 0 < length <= _LONGEST_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        end = max((entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry), default=0)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"--model: {path} is not a safetensors file") from error
    if len(text) != length or path.stat().st_size != 8 + length + end:
        raise ConfigError(f"--model: {path} is incomplete: its header expects another number of bytes")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--model: {path} is not a JSON object")
    return content


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the content of config.json.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"--model {folder}: has no {CONFIG_FILE}; "
            "give a folder that tools/convert_to_hf.py or tools/release.py wrote"
        )
    return _read_json(folder / CONFIG_FILE)
