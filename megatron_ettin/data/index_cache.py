"""Arrays that are dear to make, made once and kept on disk: all processes that need them share one build.

FOLDER/lock-KEY       held by who builds
FOLDER/KEY/*.npy      the arrays; a folder has its name only when all of it is written
FOLDER/KEY/facts.json what they depend on, and their sizes: a loss of power may leave names without all their content
FOLDER/.KEY.*.part/   a build under way, or one that was interrupted: never read, removed by the next
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

from megatron_ettin.files import locked

Arrays = dict[str, NDArray[Any]]

FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class IndexCache:
    """A folder of arrays, and what those that are asked for depend on."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def of_corpus(cls, prefix: str, folder: str) -> IndexCache:
        """Return the cache of a corpus: in ``folder``, or beside it.

        The pair is known by the sizes and times of its files: no byte of it is hashed.
        """
        place = Path(folder) if folder else Path(f"{prefix}.cache")
        stats = [Path(f"{prefix}{suffix}").stat() for suffix in (".idx", ".bin")]
        pair = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return cls(place, {"format": 1, "pair": pair, "name": Path(prefix).name})

    def knowing(self, **facts: Any) -> IndexCache:
        """Return the cache of what depends on more."""
        return replace(self, facts={**self.facts, **facts})

    def get(self, build: Callable[[], Arrays]) -> Arrays:
        """Return the arrays, mapped from the disk; ``build`` makes them where they are not there.

        Where the folder cannot be written, what was built is returned and nothing kept.
        """
        key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:24]
        kept = self.folder / key
        if not _is_whole(kept):
            with ExitStack() as stack:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.folder / f"lock-{key}"))
                except OSError:
                    return build()
                if not _is_whole(kept):
                    arrays = build()
                    if not self._keep(arrays, kept):
                        return arrays
        return {path.stem: _mapped(path) for path in kept.glob("*.npy")}

    def _keep(self, arrays: Arrays, kept: Path) -> bool:
        """Write the arrays and give them their name; return whether that went well."""
        for left in self.folder.glob(f".{kept.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        part = self.folder / f".{kept.name}.{os.getpid()}.part"
        try:
            part.mkdir()
            for name, array in arrays.items():
                with (part / f"{name}.npy").open("wb") as file:
                    np.save(file, array)
            sizes = {path.name: path.stat().st_size for path in part.iterdir()}
            written = json.dumps({"facts": self.facts, "bytes": sizes}, sort_keys=True)
            (part / FACTS_FILE).write_text(written + "\n", encoding="utf-8")
            if kept.exists() and not _is_whole(kept):
                shutil.rmtree(kept)
            part.rename(kept)
        except OSError:  # the disk is full, or another machine was first
            shutil.rmtree(part, ignore_errors=True)
            return _is_whole(kept)
        return True


def _is_whole(kept: Path) -> bool:
    """Whether a folder is there, with all that was written into it."""
    try:
        sizes = json.loads((kept / FACTS_FILE).read_bytes())["bytes"]
        return all((kept / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _mapped(path: Path) -> NDArray[Any]:
    # A plain array over the mapped file: indexing numpy's memmap class costs several times as much.
    return np.asarray(np.load(path, mmap_mode="r"))
