"""Cache of arrays that are expensive to build: built once, kept on disk and mapped by all processes that need them.

FOLDER/lock-KEY       held by the process that builds
FOLDER/KEY/*.npy      the arrays; the folder gets its name once it is complete
FOLDER/KEY/facts.json their dependencies, and their sizes: after a power loss a file may exist without all its content
FOLDER/.KEY.*.part/   a build in progress or interrupted: never read, removed by the next build
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.data.corpus.file_mapping import map_array
from megatron_ettin.files import locked

Arrays = dict[str, NDArray[Any]]

FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class IndexCache:
    """A folder of arrays, and the facts that identify the requested ones."""

    folder: Path
    facts: Mapping[str, Any]
    """Everything the arrays depend on."""

    @classmethod
    def of_corpus(cls, prefix: str, folder: str) -> IndexCache:
        """Return the cache of a corpus: in ``folder``, or next to the corpus.

        The pair is identified by the sizes and modification times of its files; no content is hashed.
        """
        root = Path(folder) if folder else Path(f"{prefix}.cache")
        stats = [Path(f"{prefix}{suffix}").stat() for suffix in (".idx", ".bin")]
        pair = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return cls(root, {"format": 2, "pair": pair, "name": Path(prefix).name})

    def with_facts(self, **facts: Any) -> IndexCache:
        """Return the cache of arrays that depend on more facts."""
        return replace(self, facts={**self.facts, **facts})

    def get(self, build: Callable[[], Arrays]) -> Arrays:
        """Return the arrays, mapped from disk; ``build`` computes them if they are missing.

        If the folder is not writable, the result of ``build`` is returned and not kept.
        """
        key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:24]
        kept = self.folder / key
        if not _is_complete(kept):
            with ExitStack() as stack:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.folder / f"lock-{key}"))
                except OSError:
                    return build()
                if not _is_complete(kept):
                    arrays = build()
                    if not self._keep(arrays, kept):
                        return arrays
        return {path.stem: map_array(path) for path in kept.glob("*.npy")}

    def _keep(self, arrays: Arrays, kept: Path) -> bool:
        """Write the arrays and rename their folder; return whether that succeeded."""
        for stale in self.folder.glob(f".{kept.name}.*.part"):
            shutil.rmtree(stale, ignore_errors=True)
        part = self.folder / f".{kept.name}.{os.getpid()}.part"
        try:
            part.mkdir()
            for name, array in arrays.items():
                with (part / f"{name}.npy").open("wb") as file:
                    np.save(file, array)
            sizes = {path.name: path.stat().st_size for path in part.iterdir()}
            written = json.dumps({"facts": self.facts, "bytes": sizes}, sort_keys=True)
            (part / FACTS_FILE).write_text(written + "\n", encoding="utf-8")
            if kept.exists() and not _is_complete(kept):
                shutil.rmtree(kept)
            part.rename(kept)
        except OSError:  # the disk is full, or another machine finished first
            shutil.rmtree(part, ignore_errors=True)
            return _is_complete(kept)
        return True


def _is_complete(kept: Path) -> bool:
    """Whether a folder exists with all that was written into it."""
    try:
        sizes = json.loads((kept / FACTS_FILE).read_bytes())["bytes"]
        return all((kept / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False
