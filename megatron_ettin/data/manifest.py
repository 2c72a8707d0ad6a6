"""What is known of a pair beside the pair itself: how it was made, and sizes and checksums of its parts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """A stretch of a pair that was written as one."""

    documents: int
    sequences: int
    tokens: int
    bytes: int
    """In the .bin."""
    sha256: str
    """Of these bytes."""


@dataclass(frozen=True)
class Manifest:
    """Of one pair."""

    tokenizer_fingerprint: str
    """See :attr:`TokenizerFiles.encoding_fingerprint`."""
    tokenizer_file_sha256: str
    vocab_size: int
    """One more than the largest id the tokenizer gives."""
    encoder: str
    settings: dict[str, Any]
    """Flags that decide what is written."""
    inputs: list[list[Any]]
    """Path and bytes of each file that was read."""
    skipped: int
    """Records left out by --on-error skip."""
    index_sha256: str
    parts: list[Part]

    @property
    def documents(self) -> int:
        """Documents of the pair."""
        return sum(part.documents for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of the pair."""
        return sum(part.tokens for part in self.parts)

    def to_json(self) -> str:
        """Return the file's content."""
        totals = {"format": 1, "documents": self.documents, "tokens": self.tokens}
        return json.dumps({**totals, **asdict(self)}, indent=1) + "\n"

    def save(self, prefix: str | Path) -> None:
        """Write the manifest of a pair."""
        path = manifest_path(prefix)
        part = path.with_name(path.name + ".part")
        part.write_text(self.to_json(), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, prefix: str | Path) -> Manifest | None:
        """Return the manifest of a pair, None where it has none, as one made by another tool.

        Raises:
            ConfigError: the file is no manifest.
        """
        path = manifest_path(prefix)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            if found.pop("format") != 1:
                raise ValueError
            del found["documents"], found["tokens"]
            return cls(**{**found, "parts": [Part(**part) for part in found["parts"]]})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path}: is no manifest of this version; delete it to go without") from None


def manifest_path(prefix: str | Path) -> Path:
    """Return where the manifest of a pair lies."""
    return Path(f"{prefix}.manifest.json")
