"""What a model's weight files say without being loaded: how many parameters, and a checksum."""

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
"""A limit of the format."""

_OUTPUT_MATRICES = ("lm_head.weight", "decoder.weight", "embed_out.weight")
"""How families end the name of the output matrix, which some write out although it is tied to the embedding."""


def find_weight_files(folder: Path) -> list[Path]:
    """Return a model's safetensors files.

    Raises:
        ConfigError: there are none, or one that the index names is missing.
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
            raise ConfigError(f"--model {folder}: holds no {file.name}, and weights are read from safetensors only")
    return files


def count_parameters(files: Sequence[Path], *, is_tied: bool) -> int:
    """Return the number of distinct weights; buffers of whole numbers are none.

    Args:
        files: all of the model's.
        is_tied: whether the output matrix is the embedding, and counts once even if both are written out.

    Raises:
        ConfigError: a file is no safetensors file.
    """
    shapes = {
        name: tuple(entry["shape"])
        for file in files
        for name, entry in _read_header(file).items()
        if entry["dtype"].startswith(("F", "BF"))
    }
    outputs = [name for name in shapes if name.endswith(_OUTPUT_MATRICES)] if is_tied else []
    written_twice = [name for name in outputs if list(shapes.values()).count(shapes[name]) > 1]
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in written_twice)


def checksum_of(folder: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 over all that decides what the model computes: weights, config.json and tokenizer.json."""
    total = hashlib.sha256()
    for path in (*files, folder / CONFIG_FILE, folder / TOKENIZER_FILE):
        if path.is_file():
            total.update(f"{path.name} {file_sha256(path)}\n".encode())
    return total.hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    """Return name -> dtype, shape, data_offsets.

    The format: eight bytes of length, then that much JSON (huggingface.co/docs/safetensors).
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(length) if 0 < length <= _LONGEST_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        end = max((entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry), default=0)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"--model: {path} is no safetensors file") from error
    if len(text) != length or path.stat().st_size != 8 + length + end:
        raise ConfigError(f"--model: {path} is not whole: its header tells of another number of bytes")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model: {path} cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"--model: {path} holds no JSON object")
    return told


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return what config.json says.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"--model {folder}: holds no {CONFIG_FILE}; "
            "give a folder that tools/convert_to_hf.py or tools/release.py wrote"
        )
    return _read_json(folder / CONFIG_FILE)
