"""Fingerprint of the training order: the inputs that decide which tokens a sample number refers to.

It is stored with each checkpoint, so that a resumed run can detect a changed order and name the cause.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.value_types import plain_value
from megatron_ettin.data.corpus.tokenizer import TokenizerFiles

_SAMPLED_BLOCKS = 256
_BLOCK_BYTES = 2**14

ROW_SETTINGS = ("seq_length", "packing", "split", "split_by", "chunk_size", "chunk_min_size", "chunk_skip_size")
"""Settings of the data section that decide rows and their order."""


def order_fingerprint(config: RunConfig, tokenizer: TokenizerFiles) -> dict[str, Any]:
    """Return what decides the training order, one entry per cause, ready for JSON.

    Only the contents of files matter, not their paths; a large file is represented by evenly spaced blocks.
    """
    sources = config.data.data_path.requests
    roles = {role: token.text for role, token in tokenizer.roles.items()}
    return {
        "data files": [file_fingerprint(f"{source.path}{suffix}") for source in sources for suffix in (".idx", ".bin")],
        "blend": [[str(source.weight or ""), source.tokens or 0] for source in sources],
        "tokenizer": tokenizer.fingerprint,
        **({} if tokenizer.by_literal_names else {"special tokens": roles}),
        **{name: plain_value(getattr(config.data, name)) for name in (*ROW_SETTINGS, "chunk_at_sentences")},
        "seed": config.training.seed,
        **({"data_version": config.data.data_version} if config.data.data_version > 1 else {}),
        **({"shards": [Path(source.path).name for source in sources]} if config.data.split_by == "hash" else {}),
    }


def changed_causes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the causes that differ between two fingerprints, each with both values."""
    names = [*before, *(name for name in now if name not in before)]
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


def file_fingerprint(path: str) -> str:
    """Return the size of a file and a checksum of it, or of blocks evenly spaced over it."""
    size = Path(path).stat().st_size
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
            digest.update(file.read())
        else:
            for offset in np.linspace(0, size - _BLOCK_BYTES, _SAMPLED_BLOCKS).astype(np.int64).tolist():
                file.seek(offset)
                digest.update(file.read(_BLOCK_BYTES))
    return f"{size}:{digest.hexdigest()[:32]}"
