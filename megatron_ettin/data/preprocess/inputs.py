"""Resolve ``--input`` to files: expand globs and folders, and detect the kind and compression of each file."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ettin.data.preprocess.readers.records import InputFile
from megatron_ettin.errors import ConfigError

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".txt": "text", ".parquet": "parquet", ".mds": "mds"}
MDS_INDEX = "index.json"
OWN_ENDINGS = (".parts", ".punkt", ".manifest.json", ".skipped.jsonl")
"""Outputs of preprocessing, which are not inputs even in the same folder."""


def find_inputs(given: Sequence[str], flag: str = "--input") -> list[InputFile]:
    """Return the files in the given order; those of a glob or a folder sorted by name.

    A folder stands for all files below it with a known suffix, or for the shards that an MDS index.json lists.

    Raises:
        ConfigError: an input does not exist, or contains nothing to read.
    """
    return [file for entry in given for file in _expand(entry, flag)]


def _expand(entry: str, flag: str) -> Iterator[InputFile]:
    path = Path(entry)
    if path.is_dir():
        files = list(_folder_files(path, flag))
        if not files:
            suffixes = ", ".join(KINDS)
            raise ConfigError(f"{flag} {entry}: the folder has no file to read ({suffixes}, plain, .gz or .zst)")
        yield from files
    elif path.exists():
        yield from _mds_shards(path, flag) if _is_mds_index(path) else [_describe(path)]
    elif glob.has_magic(entry):
        names = sorted(glob.glob(entry, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        if not names:
            raise ConfigError(f"{flag} {entry}: no file matches")
        for name in names:
            if not Path(name).is_dir():
                yield from _expand(name, flag)
    else:
        raise ConfigError(f"{flag} {entry}: there is no such file")


def _folder_files(folder: Path, flag: str, parents: tuple[Path, ...] = ()) -> Iterator[InputFile]:
    """Yield the files to read below a folder, folder by folder."""
    index = folder / MDS_INDEX
    if _is_mds_index(index):
        yield from _mds_shards(index, flag)
        return
    visited = (*parents, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(OWN_ENDINGS):
            continue
        if path.is_dir():
            if path.resolve() not in visited:  # a symbolic link to a parent would recurse forever
                yield from _folder_files(path, flag, visited)
        elif _suffixes(path)[0] in KINDS:
            yield _describe(path)


def _suffixes(path: Path) -> tuple[str, str]:
    """Return the suffix of a file's kind, and that of its compression or nothing."""
    name = path.name.lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def _describe(path: Path) -> InputFile:
    """Describe a file by its suffix; an unknown one is read as lines of JSON."""
    kind, compression = _suffixes(path)
    stat = path.stat()
    return InputFile(
        path=str(path),
        kind=KINDS.get(kind, "json"),
        compression=COMPRESSIONS.get(compression, ""),
        num_bytes=stat.st_size if path.is_file() else 0,
        changed_ns=stat.st_mtime_ns if path.is_file() else 0,
        is_pipe=not path.is_file(),
    )


def _is_mds_index(path: Path) -> bool:
    if path.name != MDS_INDEX or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"shards"' in file.read()


def _mds_shards(index: Path, flag: str) -> Iterator[InputFile]:
    """Yield the shards that an index lists, raw or compressed as they are on disk.

    Raises:
        ConfigError: the file is not an index, or a shard is missing or differs in size from the index.
    """
    try:
        shards = json.loads(index.read_bytes())["shards"]
        all_forms = [[shard["raw_data"], shard["zip_data"]] for shard in shards]
        formats = {shard["format"] for shard in shards}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{flag} {index}: is not an index of MDS shards") from None
    if formats - {"mds"}:
        raise ConfigError(f"{flag} {index}: lists shards of format {', '.join(formats)}; only mds is read")
    for forms in all_forms:
        names = [index.parent / form["basename"] for form in forms if form]
        path, size = next(
            ((name, form["bytes"]) for name, form in zip(names, filter(None, forms), strict=True) if name.is_file()),
            (None, 0),
        )
        if path is None:
            raise ConfigError(f"{flag} {index}: lists {names[-1].name}, which does not exist")
        file = _describe(path)
        if file.num_bytes != size:
            raise ConfigError(f"{flag} {path}: has {file.num_bytes} bytes, its index says {size}")
        if file.kind != "mds":
            raise ConfigError(f"{flag} {path}: has an unsupported compression; use zstd or gzip")
        yield file
