"""The manifest of pairs laid end to end, and whether the shares of a run are all among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.data.manifest import Manifest

_INDEX, _COUNT = "--shard-index", "--num-shards"


def join_manifests(manifests: Sequence[Manifest], prefixes: Sequence[str]) -> Manifest:
    """Return the manifest of pairs laid end to end, but for the checksum of its index.

    A setting in which they differ becomes None.

    Raises:
        ConfigError: they were made with different tokenizers.
    """
    first = manifests[0]
    for manifest, prefix in zip(manifests, prefixes, strict=True):
        if manifest.tokenizer_fingerprint != first.tokenizer_fingerprint:
            raise ConfigError(f"--input {prefix}: was made with another tokenizer than {prefixes[0]}")
    return Manifest(
        tokenizer_fingerprint=first.tokenizer_fingerprint,
        tokenizer_file_sha256=first.tokenizer_file_sha256,
        vocab_size=first.vocab_size,
        encoder=", ".join(dict.fromkeys(manifest.encoder for manifest in manifests)),
        settings=_common_settings(manifests),
        inputs=[list(entry) for entry in dict.fromkeys(tuple(e) for m in manifests for e in m.inputs)],
        skipped=sum(manifest.skipped for manifest in manifests),
        index_sha256="",
        parts=[part for manifest in manifests for part in manifest.parts],
    )


def missing_shares(manifests: Sequence[Manifest], prefixes: Sequence[str]) -> list[str]:
    """Return in words what lacks where some pairs are shares of one run (``--num-shards``), and what is there twice."""
    told = []
    for members in _runs(manifests):
        indices = [manifests[member].settings[_INDEX] for member in members]
        count = manifests[members[0]].settings[_COUNT]
        missing = [index for index in range(count) if index not in indices]
        if missing:
            numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            told.append(f"{prefixes[members[0]]} is one of {count} shares; of them not there (from 0): {numbers}")
        told += [
            f"{prefixes[member]} is share {index} once more"
            for place, (member, index) in enumerate(zip(members, indices, strict=True))
            if index in indices[:place]
        ]
    return told


def _runs(manifests: Sequence[Manifest]) -> list[list[int]]:
    """Return the places of the shares of each run; shares of one differ in their number alone."""
    found: dict[str, list[int]] = {}
    for place, manifest in enumerate(manifests):
        if isinstance(manifest.settings.get(_INDEX), int) and isinstance(manifest.settings.get(_COUNT), int):
            others = {name: value for name, value in manifest.settings.items() if name != _INDEX}
            key = json.dumps([others, manifest.inputs], sort_keys=True)
            found.setdefault(key, []).append(place)
    return [members for members in found.values() if manifests[members[0]].settings[_COUNT] > 1]


def _common_settings(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Return what the settings have in common; all shares of a run are that run."""
    settings = [dict(manifest.settings) for manifest in manifests]
    for members in _runs(manifests):
        if {settings[member][_INDEX] for member in members} == set(range(settings[members[0]][_COUNT])):
            for member in members:
                settings[member] |= {_INDEX: 0, _COUNT: 1}
    names = dict.fromkeys(name for each in settings for name in each)
    told = {name: [each.get(name) for each in settings] for name in names}
    return {name: values[0] if all(value == values[0] for value in values) else None for name, values in told.items()}
