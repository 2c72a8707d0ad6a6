"""Manifest of a .bin/.idx pair: how it was made, and the sizes and checksums of its parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.files import atomic_file

_INDEX, _COUNT = "--shard-index", "--num-shards"


@dataclass(frozen=True)
class Part:
    """A contiguous part of a pair, written by one writer."""

    documents: int
    sequences: int
    tokens: int
    bytes: int
    """In the .bin."""
    sha256: str
    """Of these bytes."""


@dataclass(frozen=True)
class Manifest:
    """Manifest of one pair."""

    tokenizer_fingerprint: str
    """See :attr:`TokenizerFiles.encoding_fingerprint`."""
    tokenizer_file_sha256: str
    vocab_size: int
    """One more than the largest token id of the tokenizer."""
    encoder: str
    settings: dict[str, Any]
    """Flags that decide the content of the pair."""
    inputs: list[list[Any]]
    """Path and size in bytes of each input file."""
    skipped: int
    """Records skipped by --on-error skip."""
    index_sha256: str
    parts: list[Part]
    left_out: list[str] = field(default_factory=list)
    """Files of the input's folders and globs that are of no known format."""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(part.documents for part in self.parts)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(part.tokens for part in self.parts)

    def to_json(self) -> str:
        """Return the file's content."""
        totals = {"format": 1, "documents": self.documents, "tokens": self.tokens}
        return json.dumps({**totals, **asdict(self)}, indent=1) + "\n"

    def save(self, prefix: str | Path) -> None:
        """Write the manifest of a pair."""
        with atomic_file(manifest_path(prefix)) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, prefix: str | Path) -> Manifest | None:
        """Return the manifest of a pair; None if it has none, as a pair made by another tool.

        Raises:
            ConfigError: the file is not a manifest.
        """
        path = manifest_path(prefix)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != 1:
                raise ValueError
            del content["documents"], content["tokens"]
            return cls(**{**content, "parts": [Part(**part) for part in content["parts"]]})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path}: is not a manifest of this version; delete it to go without") from None


def manifest_path(prefix: str | Path) -> Path:
    """Return the path of the manifest of a pair."""
    return Path(f"{prefix}.manifest.json")


def join_manifests(manifests: Sequence[Manifest], prefixes: Sequence[str]) -> Manifest:
    """Return the manifest of concatenated pairs, without the checksum of the index.

    Settings that differ become None.

    Raises:
        ConfigError: the pairs were made with different tokenizers.
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
        left_out=list(dict.fromkeys(path for manifest in manifests for path in manifest.left_out)),
    )


def missing_shares(manifests: Sequence[Manifest], prefixes: Sequence[str]) -> list[str]:
    """Describe missing and duplicate shares, where pairs are shares of one run (``--num-shards``)."""
    problems = []
    for members in _runs(manifests):
        indices = [manifests[member].settings[_INDEX] for member in members]
        count = manifests[members[0]].settings[_COUNT]
        missing = [index for index in range(count) if index not in indices]
        if missing:
            numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            problems.append(f"{prefixes[members[0]]} is one of {count} shares; missing (from 0): {numbers}")
        problems += [
            f"{prefixes[member]} duplicates share {index}"
            for place, (member, index) in enumerate(zip(members, indices, strict=True))
            if index in indices[:place]
        ]
    return problems


def _runs(manifests: Sequence[Manifest]) -> list[list[int]]:
    """Return the positions of the shares of each run; shares of a run differ in their index alone."""
    runs: dict[str, list[int]] = {}
    for place, manifest in enumerate(manifests):
        if isinstance(manifest.settings.get(_INDEX), int) and isinstance(manifest.settings.get(_COUNT), int):
            others = {name: value for name, value in manifest.settings.items() if name != _INDEX}
            key = json.dumps([others, manifest.inputs], sort_keys=True)
            runs.setdefault(key, []).append(place)
    return [members for members in runs.values() if manifests[members[0]].settings[_COUNT] > 1]


def _common_settings(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Return the settings that all pairs share; all shares of a run together count as the run."""
    settings = [dict(manifest.settings) for manifest in manifests]
    for members in _runs(manifests):
        if {settings[member][_INDEX] for member in members} == set(range(settings[members[0]][_COUNT])):
            for member in members:
                settings[member] |= {_INDEX: 0, _COUNT: 1}
    names = dict.fromkeys(name for each in settings for name in each)
    values_of = {name: [each.get(name) for each in settings] for name in names}
    return {name: values[0] if values.count(values[0]) == len(values) else None for name, values in values_of.items()}
